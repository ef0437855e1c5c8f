// SPDX-License-Identifier: Apache-2.0
#include "tests/fault_sweep.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvmglue/fd.h"
#include "kvmglue/sim/fault_injector.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/proc.h"
#include "vmm/reference/guest_check.h"

namespace rehome {

using harness::GuestProbe;
using harness::ScopedStop;
using std::chrono::milliseconds;
using v1::Migration;

namespace {

// Bound of every wait for something that must happen, on a machine that is busy otherwise.
constexpr milliseconds kPatience{30'000};
// A guest that steps every 20 us has stepped in this time, unless nobody runs it.
constexpr milliseconds kStandsStill{500};
constexpr int kLookAgainMs = 2;
// Of a request: up to START, so that a message that never comes does not cost PREPARE's minute.
constexpr int kDeadlineSeconds = 3;
constexpr int kDataLoss = 15;  // google.rpc.Code

bool Eventually(milliseconds patience, const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    poll(nullptr, 0, kLookAgainMs);
  }
  return true;
}

std::optional<uint64_t> StepsIn(const GuestProbe& probe) {
  const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(probe, 0);
  if (!mailbox.ok()) return std::nullopt;
  return mailbox->steps;
}

bool GoesOn(pid_t pid, milliseconds patience) {
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
  if (!probe.ok()) return false;
  const std::optional<uint64_t> before = StepsIn(*probe);
  return before && Eventually(patience, [&] { return StepsIn(*probe).value_or(0) > *before; });
}

MessageFaultPage* MapMessagePage(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file || ftruncate(file.borrow().raw(), sizeof(MessageFaultPage)) != 0) return nullptr;
  void* address = mmap(nullptr, sizeof(MessageFaultPage), PROT_READ | PROT_WRITE, MAP_SHARED,
                       file.borrow().raw(), 0);
  return address == MAP_FAILED ? nullptr : static_cast<MessageFaultPage*>(address);
}

// The guest is gone by the fault itself: its VMM cannot run it where it has to.
bool MayBeLost(const SweptFault& fault) {
  return fault.what == SweptFault::What::kKernelCall &&
         FaultOperationName(fault.operation) == "KVM_RUN";
}

// Nobody can be asked, or every rescuer fails like the target before it.
bool MayBeUndecided(const SweptFault& fault, const SweptStrategy& strategy) {
  if (fault.once) return false;
  if (fault.what == SweptFault::What::kMessage) return true;
  return fault.what == SweptFault::What::kKernelCall && fault.side == Side::kTarget &&
         strategy.moves();
}

const char* FaultName(MessageFault fault) {
  switch (fault) {
    case MessageFault::kNone:
      return "none";
    case MessageFault::kCut:
      return "cut";
    case MessageFault::kDrop:
      return "dropped";
    case MessageFault::kGarble:
      return "garbled";
  }
  return "?";
}

}  // namespace

std::string Describe(const SweptFault& fault) {
  if (fault.what == SweptFault::What::kNothing) return "no fault";
  const std::string tail = absl::StrCat(" #", fault.nth, fault.once ? " once" : " for good");
  const char* side = fault.side == Side::kSource ? "source: " : "target: ";
  if (fault.what == SweptFault::What::kKernelCall) {
    return absl::StrCat(side, FaultOperationName(fault.operation), " ",
                        strerrorname_np(fault.error), tail);
  }
  return absl::StrCat(side, "message ",
                      fault.direction == Direction::kToDaemon ? "to daemon " : "to agent ",
                      FaultName(fault.message), tail);
}

absl::Status SweptHost::OpenPages() {
  if (pages_[0].kernel != nullptr) return absl::OkStatus();
  for (int side = 0; side < 2; ++side) {
    absl::StatusOr<FaultPage*> kernel =
        FaultPage::Open(directory_.File(absl::StrCat("kernel-", side)));
    if (!kernel.ok()) return kernel.status();
    pages_[side] = {*kernel, MapMessagePage(directory_.File(absl::StrCat("messages-", side)))};
    if (pages_[side].messages == nullptr) return absl::UnavailableError("no message fault page");
  }
  return absl::OkStatus();
}

std::vector<std::string> SweptHost::ArgumentsFor(Side side) const {
  return {"--fault-page", directory_.File(absl::StrCat("kernel-", static_cast<int>(side)))};
}

std::map<std::string, std::string> SweptHost::EnvironmentFor(Side side) const {
  return {
      {"LD_PRELOAD", harness::BinaryPath("tests/libmessage_faults.so")},
      {kMessageFaultVariable, directory_.File(absl::StrCat("messages-", static_cast<int>(side)))}};
}

absl::Status SweptHost::EnsureHost() {
  if (host_ != nullptr) return absl::OkStatus();
  if (absl::Status status = OpenPages(); !status.ok()) return status;
  harness::ProfileConfig profile = {.name = harness::ProfileOfVersion(2),
                                    .command = {harness::BinaryPath("vmm/reference/rehome-vmm-2"),
                                                "--target", "--kernel", strategy_.kernel},
                                    .environment = EnvironmentFor(Side::kTarget)};
  for (const std::string& argument : ArgumentsFor(Side::kTarget)) {
    profile.command.push_back(argument);
  }
  auto host = harness::HostUnderTest::Start({.kernel = strategy_.kernel, .profiles = {profile}});
  if (!host.ok()) return host.status();
  host_ = *std::move(host);
  return absl::OkStatus();
}

void SweptHost::Arm(const SweptFault& fault) {
  for (const Side side : {Side::kSource, Side::kTarget}) {
    const Pages& pages = pages_[static_cast<int>(side)];
    const bool here = fault.side == side;
    const bool call = here && fault.what == SweptFault::What::kKernelCall;
    pages.kernel->Arm(fault.operation, fault.nth, call ? fault.error : 0, fault.once);
    const bool message = here && fault.what == SweptFault::What::kMessage;
    for (auto& count : pages.messages->counts) count.store(0);
    pages.messages->injected.store(0);
    pages.messages->fault = message ? fault.message : MessageFault::kNone;
    pages.messages->direction = fault.direction;
    pages.messages->once = fault.once ? 1 : 0;
    pages.messages->message = fault.nth;
    pages.messages->armed.store(1);
  }
}

void SweptHost::Disarm(SweptRun& run) {
  for (int side = 0; side < 2; ++side) {
    const Pages& pages = pages_[side];
    pages.kernel->Disarm();
    pages.messages->armed.store(0);
    run.counts[side].calls = pages.kernel->Calls();
    for (int i = 0; i < 2; ++i) run.counts[side].messages[i] = pages.messages->counts[i].load();
    run.injected += pages.kernel->injected() + pages.messages->injected.load();
  }
}

absl::Status SweptHost::Migrate(SweptRun& run) {
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/guest");
  request.set_target_profile(harness::ProfileOfVersion(2));
  request.mutable_deadline()->set_seconds(kDeadlineSeconds);
  const absl::StatusOr<Migration> created = host_->client().CreateMigration(request);
  if (!created.ok()) return created.status();
  absl::StatusOr<Migration> last =
      host_->client().WatchMigration(created->name(), {.timeout = kPatience});
  if (last.ok()) {
    run.record = *std::move(last);
    return absl::OkStatus();
  }
  v1::GetMigrationRequest get;
  get.set_name(created->name());
  const absl::StatusOr<Migration> now = host_->client().GetMigration(get);
  return absl::DeadlineExceededError(
      absl::StrCat(last.status().ToString(), now.ok() ? now->ShortDebugString() : ""));
}

absl::StatusOr<SweptRun> SweptHost::Run(const SweptFault& fault) {
  if (absl::Status status = EnsureHost(); !status.ok()) return status;
  harness::VmmOptions options = {.version = 1, .vm_type = strategy_.vm_type, .memory_mib = 16};
  options.arguments = strategy_.vmm_arguments;
  for (const std::string& argument : ArgumentsFor(Side::kSource)) {
    options.arguments.push_back(argument);
  }
  for (const char* argument : {"--step-ns=20000", "--working-set-pages=64"}) {
    options.arguments.push_back(argument);
  }
  options.environment = EnvironmentFor(Side::kSource);
  absl::StatusOr<harness::StartedVmm> source = host_->StartVmm(options);
  if (!source.ok()) return source.status();
  const pid_t pid = source->process.pid();
  if (!Eventually(kPatience, [&] { return GoesOn(pid, milliseconds(kLookAgainMs)); })) {
    return absl::UnavailableError("the guest does not start");
  }
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
  if (!probe.ok()) return probe.status();
  std::vector<InodeId> inodes;
  for (const harness::GuestMemoryFile& file : probe->files()) inodes.push_back(file.inode);
  const absl::StatusOr<harness::Footprint> before = harness::FootprintOf(*host_);
  if (!before.ok()) return before.status();

  SweptRun run;
  Arm(fault);
  const absl::Status migrated = Migrate(run);
  Disarm(run);
  if (!migrated.ok()) {
    run.problems.push_back(absl::StrCat("the migration does not end: ", migrated.ToString()));
  } else {
    Judge(fault, pid, *before, inodes, run);
  }
  const bool settled = run.problems.empty() && run.record.state() != Migration::INDETERMINATE;
  if (!run.problems.empty()) {
    run.problems.push_back(absl::StrCat("record: ", run.record.ShortDebugString()));
    run.problems.push_back(absl::StrCat("rehomed: ", host_->DaemonLog()));
  }
  EndGuest();
  // What is held for a guest that nobody has decided about goes with its host.
  if (!settled) host_.reset();
  return run;
}

SweptHost::Runners SweptHost::FindRunners() const {
  Runners found;
  for (const pid_t pid : host_->Processes()) {
    if (pid != host_->daemon().pid() && GuestProbe::Attach(pid).ok()) found.mapping.push_back(pid);
  }
  // Memory that is shared changes in all of them: who runs the guest is seen when the others stop.
  for (const pid_t pid : found.mapping) {
    std::vector<ScopedStop> others;
    for (const pid_t other : found.mapping) {
      if (other == pid) continue;
      absl::StatusOr<ScopedStop> stop = ScopedStop::Stop(other, kPatience);
      if (stop.ok()) others.push_back(*std::move(stop));
    }
    if (GoesOn(pid, kStandsStill)) found.running.push_back(pid);
  }
  return found;
}

void SweptHost::Judge(const SweptFault& fault, pid_t source, const harness::Footprint& before,
                      const std::vector<InodeId>& inodes, SweptRun& run) {
  std::vector<pid_t> running = FindRunners().running;
  if (running.size() > 1) run.problems.push_back("more than one process runs the guest");
  JudgeRecord(fault, source, running, run);
  if (!running.empty()) JudgeGuest(running.front(), run);
  if (run.record.state() == Migration::INDETERMINATE) return;
  for (const std::string& left :
       harness::FindLeftovers(*host_, before, running, inodes, milliseconds(5000))) {
    run.problems.push_back("left over: " + left);
  }
}

void SweptHost::JudgeRecord(const SweptFault& fault, pid_t source,
                            const std::vector<pid_t>& running, SweptRun& run) {
  const Migration& record = run.record;
  const auto must = [&run](bool holds, const char* what) {
    if (!holds) run.problems.push_back(what);
  };
  const auto runs_in = [&running](pid_t pid) {
    return running.size() == 1 && running.front() == pid;
  };
  switch (record.guest_owner()) {
    case Migration::SOURCE:
      must(runs_in(source), "the source is said to run the guest and does not");
      break;
    case Migration::TARGET:
      must(runs_in(record.target().pid()), "the target is said to run the guest and does not");
      break;
    case Migration::NOBODY:
      must(running.empty(), "a guest is said to be lost and runs");
      must(record.error().code() == kDataLoss, "a loss is not called one");
      must(MayBeLost(fault), "the guest is lost, and need not be");
      break;
    default:
      must(record.state() == Migration::INDETERMINATE, "nobody knows who has the guest");
      must(MayBeUndecided(fault, strategy_), "INDETERMINATE, and need not be");
      break;
  }
  if (record.state() == Migration::SUCCEEDED) {
    const v1::FenceProof& proof = record.fence_proof();
    must(record.guest_owner() == Migration::TARGET, "SUCCEEDED, and not on the target");
    must(proof.complete() && proof.process_exited() && proof.foreign_holders_size() == 0,
         "SUCCEEDED without a complete proof");
    must(!record.has_error(), "SUCCEEDED with an error");
    must(kill(source, 0) != 0 || harness::ExecutableName(source).empty(),
         "SUCCEEDED, and the source lives");
  } else {
    must(!record.error().message().empty(), "a failure without a reason");
  }
  if (fault.what == SweptFault::What::kNothing) {
    must(record.state() == Migration::SUCCEEDED && record.strategy() == strategy_.strategy,
         "a migration without a fault fails");
  }
}

void SweptHost::JudgeGuest(pid_t runner, SweptRun& run) {
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(runner);
  const absl::StatusOr<ScopedStop> stop = ScopedStop::Stop(runner, kPatience);
  if (!probe.ok() || !stop.ok()) {
    run.problems.push_back("the guest's process cannot be looked into");
    return;
  }
  const absl::StatusOr<GuestReport> report = GuestChecker().Check(*probe);
  if (!report.ok()) {
    run.problems.push_back(report.status().ToString());
  } else if (!report->intact || report->errors != 0) {
    run.problems.push_back("the guest is not intact: " + report->difference);
  }
}

void SweptHost::EndGuest() {
  for (const pid_t pid : host_->Processes()) {
    if (pid != host_->daemon().pid()) kill(pid, SIGKILL);
  }
  Eventually(kPatience,
             [&] { return host_->Processes().size() == 1 && !host_->GetVm("guest").ok(); });
}

}  // namespace rehome
