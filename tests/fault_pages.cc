// SPDX-License-Identifier: Apache-2.0
#include "tests/fault_pages.h"

#include <fcntl.h>

#include "absl/strings/str_cat.h"
#include "tests/preload_page.h"

namespace rehome {
namespace {

constexpr Side kSides[] = {Side::kSource, Side::kTarget};

}  // namespace

std::string FaultPages::KernelFile(Side side) const {
  return directory_.File(absl::StrCat("kernel-", static_cast<int>(side)));
}

std::string FaultPages::DaemonFile() const { return directory_.File("daemon"); }

std::string FaultPages::MessageFile(Side side) const {
  return directory_.File(absl::StrCat("messages-", static_cast<int>(side)));
}

absl::Status FaultPages::Open() {
  if (pages_[0].kernel != nullptr) return absl::OkStatus();
  for (const Side side : kSides) {
    const absl::StatusOr<FaultPage*> kernel = FaultPage::Open(KernelFile(side));
    if (!kernel.ok()) return kernel.status();
    auto* const messages = MapPreloadPage<MessageFaultPage>(MessageFile(side).c_str(), O_CREAT);
    if (messages == nullptr) return absl::UnavailableError("no message fault page");
    pages_[static_cast<int>(side)] = {*kernel, messages};
  }
  daemon_ = MapPreloadPage<SyscallFaultPage>(DaemonFile().c_str(), O_CREAT);
  if (daemon_ == nullptr) return absl::UnavailableError("no system call fault page");
  return absl::OkStatus();
}

std::vector<std::string> FaultPages::ArgumentsFor(Side side) const {
  return {"--fault-page", KernelFile(side)};
}

std::map<std::string, std::string> FaultPages::EnvironmentFor(Side side) const {
  return {{"LD_PRELOAD", harness::BinaryPath("tests/libmessage_faults.so")},
          {kMessageFaultVariable, MessageFile(side)}};
}

std::map<std::string, std::string> FaultPages::EnvironmentForDaemon() const {
  return {{"LD_PRELOAD", harness::BinaryPath("tests/syscall_sweep/libsyscall_faults.so")},
          {kSyscallFaultVariable, DaemonFile()}};
}

void FaultPages::Arm(const SweptFault& fault) {
  for (const Side side : kSides) {
    const bool here = fault.side == side;
    const bool call = here && fault.what == SweptFault::What::kKernelCall;
    Of(side).kernel->Arm(fault.operation, fault.nth, call ? fault.error : 0, fault.once);
    const bool message = here && fault.what == SweptFault::What::kMessage;
    MessageFaultPage& page = *Of(side).messages;
    for (auto& count : page.counts) count.store(0);
    page.injected.store(0);
    page.fault = message ? fault.message : MessageFault::kNone;
    page.direction = fault.direction;
    page.once = fault.once ? 1 : 0;
    page.message = fault.nth;
    page.armed.store(1);
  }
  for (auto& count : daemon_->counts) count.store(0);
  daemon_->injected.store(0);
  daemon_->call = fault.call;
  daemon_->error = fault.what == SweptFault::What::kDaemonCall ? fault.error : 0;
  daemon_->pattern = fault.once ? FaultPattern::kOnce : FaultPattern::kForGood;
  if (fault.every_second) daemon_->pattern = FaultPattern::kEverySecond;
  daemon_->nth = fault.nth;
  daemon_->armed.store(1);
}

void FaultPages::Disarm() {
  for (const Pages& pages : pages_) {
    pages.kernel->Disarm();
    pages.messages->armed.store(0);
  }
  daemon_->armed.store(0);
}

SideCounts FaultPages::Counts(Side side) const {
  SideCounts counts = {.calls = Of(side).kernel->Calls()};
  for (int i = 0; i < 2; ++i) counts.messages[i] = Of(side).messages->counts[i].load();
  return counts;
}

DaemonCounts FaultPages::CountsOfDaemon() const {
  DaemonCounts counts;
  for (size_t i = 0; i < kDaemonCalls; ++i) counts[i] = daemon_->counts[i].load();
  return counts;
}

uint64_t FaultPages::injected() const {
  uint64_t injected = daemon_->injected.load();
  for (const Pages& pages : pages_) {
    injected += pages.kernel->injected() + pages.messages->injected.load();
  }
  return injected;
}

}  // namespace rehome
