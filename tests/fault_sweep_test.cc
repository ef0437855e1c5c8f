// SPDX-License-Identifier: Apache-2.0
//
// Fails every kernel call and every message of a migration, one per migration: the Nth of its kind,
// once and from then on, for every N that a migration without faults has. Whichever it is,
// afterwards one process runs the guest, whole, and the record says which, or an honest loss.
//
// One kind has no Nth: KVM_RUN, which a VMM calls as long as its guest lives. Of the source any one
// before the pause is like any other; of the target the first is the last one of the migration.
#include "tests/fault_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvmglue/sim/fault_injector.h"
#include "kvmglue/why_no_kvm.h"

#ifndef REHOME_SWEEP_ROW
#error "the strategy to sweep"
#endif

namespace rehome {
namespace {

using std::chrono::milliseconds;
using v1::Migration;

// Hosts beside each other: a case is mostly waiting. A guest on real KVM takes a whole CPU, and the
// kernel takes long to tear down the VMs of many at a time.
constexpr int kSimHosts = 6;
constexpr int kKvmHosts = 3;
// More than this tells nothing new, and each costs seconds.
constexpr size_t kMaxBroken = 12;
// Runs without a fault, to learn what there is to fail: in one, two messages may have crossed.
constexpr int kDryRuns = 3;
// Of each side in each direction, for a count that is lower counts nothing.
constexpr uint64_t kMinMessages = 3;
// Of a case that ended before it came to its fault: the order of messages that cross is a race, and
// on a machine that stands still for some seconds a migration ends for that.
constexpr int kTries = 6;
// Only the cases whose description contains the variable's value: to look into one of them.
constexpr char kOnlyVariable[] = "SWEEP_ONLY";

SweptStrategy Row() {
  const std::string row = REHOME_SWEEP_ROW;
  const std::vector<std::string> memfd = {"--memory-kind=memfd"};
  if (row == "kvm_map") return {"kvm", "default", memfd, Migration::MAP};
  if (row == "map_after_resume") {
    return {"sim", "default", memfd, Migration::MAP, Migration::AFTER_RESUME};
  }
  if (row == "map") return {"sim", "default", memfd, Migration::MAP};
  if (row == "link") return {"sim", "default", {}, Migration::LINK};
  if (row == "map_move") return {"sim", "sev", {}, Migration::MAP_MOVE};
  return {"sim", "sw-protected", {}, Migration::LINK_MOVE};
}

// What a kernel says when it cannot do a call of this kind. MOVE (ENABLE_CAP) is told in two ways:
// EINVAL comes before the kernel has done anything, EIO may come after.
std::vector<int> ErrnosOf(const FaultOperation& operation) {
  const std::string name = FaultOperationName(operation);
  if (name == "OPEN") return {EMFILE};
  if (name == "MAP" || name.starts_with("KVM_CREATE_")) return {ENOMEM};
  if (name == "KVM_ENABLE_CAP") return {EINVAL, EIO};
  if (name == "KVM_RUN") return {EFAULT};
  return {EINVAL};
}

SweptRun MustRun(SweptHost& host, const SweptFault& fault) {
  absl::StatusOr<SweptRun> run = host.Run(fault);
  if (run.ok()) return *std::move(run);
  SweptRun failed;
  failed.problems.push_back(absl::StrCat("the host failed: ", run.status().ToString()));
  return failed;
}

// The most that any run without a fault has had.
void Raise(const SideCounts& counts, SideCounts& most) {
  for (const auto& [operation, calls] : counts.calls) {
    most.calls[operation] = std::max(most.calls[operation], calls);
  }
  for (int i = 0; i < 2; ++i) most.messages[i] = std::max(most.messages[i], counts.messages[i]);
}

void AppendMessageFaults(Side side, const SideCounts& counts, bool once,
                         std::vector<SweptFault>& faults) {
  for (const Direction direction : {Direction::kToDaemon, Direction::kToAgent}) {
    for (uint64_t nth = 1; nth <= counts.messages[static_cast<int>(direction)]; ++nth) {
      for (const MessageFault message :
           {MessageFault::kCut, MessageFault::kDrop, MessageFault::kGarble}) {
        faults.push_back({.what = SweptFault::What::kMessage,
                          .side = side,
                          .nth = nth,
                          .once = once,
                          .message = message,
                          .direction = direction});
      }
    }
  }
}

void AppendKernelFaults(Side side, const SideCounts& counts, std::vector<SweptFault>& faults) {
  std::map<FaultOperation, uint64_t> calls = counts.calls;
  // Also where no guest happened to leave it in the short time of the dry runs.
  calls[KernelCall("KVM_RUN")] = 1;
  for (const auto& [operation, count] : calls) {
    for (uint64_t nth = 1; nth <= count; ++nth) {
      for (const int error : ErrnosOf(operation)) {
        for (const bool once : {true, false}) {
          faults.push_back({.what = SweptFault::What::kKernelCall,
                            .side = side,
                            .nth = nth,
                            .once = once,
                            .operation = operation,
                            .error = error});
        }
      }
    }
  }
}

// What takes longest comes first: whoever is cut off for good is waited for.
std::vector<SweptFault> AllFaults(const SideCounts (&counts)[2]) {
  std::vector<SweptFault> faults;
  for (const bool once : {false, true}) {
    for (int side = 0; side < 2; ++side) {
      AppendMessageFaults(static_cast<Side>(side), counts[side], once, faults);
    }
  }
  for (int side = 0; side < 2; ++side) {
    AppendKernelFaults(static_cast<Side>(side), counts[side], faults);
  }
  if (const char* only = getenv(kOnlyVariable); only != nullptr) {
    std::erase_if(faults, [only](const SweptFault& fault) {
      return Describe(fault).find(only) == std::string::npos;
    });
  }
  return faults;
}

// Counts what became of the cases of one kind. Not thread-safe.
struct Tally {
  size_t ran = 0, succeeded = 0, kept = 0, unconfirmed = 0, lost = 0, undecided = 0;

  void Count(const Migration& record) {
    const bool failed = record.state() == Migration::FAILED;
    ++ran;
    succeeded += record.state() == Migration::SUCCEEDED ? 1 : 0;
    kept += record.guest_owner() == Migration::SOURCE ? 1 : 0;
    unconfirmed += failed && record.guest_owner() == Migration::TARGET ? 1 : 0;
    lost += record.guest_owner() == Migration::NOBODY ? 1 : 0;
    undecided += record.state() == Migration::INDETERMINATE ? 1 : 0;
  }
  std::string Text() const {
    return absl::StrCat(ran, " cases: ", succeeded, " SUCCEEDED, ", kept, " on the source, ",
                        unconfirmed, " on the target unconfirmed, ", lost, " lost by KVM_RUN, ",
                        undecided, " INDETERMINATE until the fault was over");
  }
};

// Runs all of them, prints what became of each, and remembers what broke.
class Sweep {
 public:
  explicit Sweep(std::vector<SweptFault> faults) : faults_(std::move(faults)) {}

  void Run() {
    std::vector<std::thread> hosts;
    const int count = Row().kernel == "kvm" ? kKvmHosts : kSimHosts;
    for (int i = 0; i < count; ++i) {
      hosts.emplace_back([this] { Work(); });
    }
    for (std::thread& host : hosts) host.join();
    std::cout << REHOME_SWEEP_ROW << ": kernel calls: " << kernel_calls_.Text() << "\n"
              << REHOME_SWEEP_ROW << ": messages: " << messages_.Text() << std::endl;
  }
  const std::vector<std::string>& broken() const { return broken_; }
  size_t ran() const { return kernel_calls_.ran + messages_.ran; }

 private:
  void Work() {
    SweptHost host(Row());
    while (true) {
      const size_t index = next_.fetch_add(1);
      if (index >= faults_.size()) return;
      const auto begin = std::chrono::steady_clock::now();
      SweptRun run = MustRun(host, faults_[index]);
      for (int i = 1; i < kTries && run.injected == 0 && run.problems.empty(); ++i) {
        run = MustRun(host, faults_[index]);
      }
      // A fault that never happened has tested nothing.
      if (run.injected == 0) run.problems.push_back("the fault never came");
      Note(faults_[index], run, std::chrono::steady_clock::now() - begin);
    }
  }

  void Note(const SweptFault& fault, const SweptRun& run, std::chrono::nanoseconds took) {
    const std::lock_guard<std::mutex> guard(mutex_);
    (fault.what == SweptFault::What::kMessage ? messages_ : kernel_calls_).Count(run.record);
    std::cout << absl::StrCat(Describe(fault), ": ", Migration::State_Name(run.record.state()),
                              ", ", Migration::GuestOwner_Name(run.record.guest_owner()),
                              run.problems.empty() ? "" : ", BROKEN", " (", took / milliseconds(1),
                              " ms)\n");
    if (run.problems.empty()) return;
    broken_.push_back(absl::StrCat(Describe(fault), "\n  ", absl::StrJoin(run.problems, "\n  ")));
    if (broken_.size() >= kMaxBroken) next_.store(faults_.size());
  }

  const std::vector<SweptFault> faults_;
  std::atomic<size_t> next_ = 0;
  std::mutex mutex_;  // guards what follows
  Tally kernel_calls_, messages_;
  std::vector<std::string> broken_;
};

TEST(FaultSweepTest, WhicheverCallOrMessageFailsTheGuestHasOneOwnerAndTheRecordNamesIt) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the library that is preloaded into VMMs would come before the sanitizer's";
#endif
  if (Row().kernel == "kvm") {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }
  SideCounts counts[2];
  SweptHost host(Row());
  for (int i = 0; i < kDryRuns; ++i) {
    const SweptRun dry = MustRun(host, {});
    ASSERT_TRUE(dry.problems.empty()) << absl::StrJoin(dry.problems, "\n");
    for (int side = 0; side < 2; ++side) Raise(dry.counts[side], counts[side]);
  }
  for (const SideCounts& side : counts) {
    ASSERT_FALSE(side.calls.empty());
    for (const uint64_t messages : side.messages) ASSERT_GE(messages, kMinMessages);
  }
  ASSERT_GE(counts[1].messages[static_cast<int>(Direction::kToAgent)], kTargetRegistered);
  const std::vector<SweptFault> faults = AllFaults(counts);
  Sweep sweep(faults);
  sweep.Run();
  EXPECT_TRUE(sweep.broken().empty()) << absl::StrJoin(sweep.broken(), "\n\n");
  EXPECT_EQ(sweep.ran(), faults.size());
}

}  // namespace
}  // namespace rehome
