// SPDX-License-Identifier: Apache-2.0
#include "tests/fault_sweep.h"

#include <fcntl.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/harness/eventually.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/proc.h"
#include "vmm/reference/guest_check.h"

namespace rehome {

using harness::Eventually;
using harness::GuestProbe;
using harness::ScopedStop;
using std::chrono::milliseconds;
using v1::Migration;

namespace {

// Bound of every wait for something that must happen, on a machine that is busy otherwise.
constexpr milliseconds kPatience{60'000};
// A guest that steps every millisecond has stepped in this time, unless nobody runs it. Who is said
// to run it has kPatience.
constexpr milliseconds kStandsStill{500};
// Of one look at a guest that may not have been started yet.
constexpr milliseconds kGlance{3};
// For descriptors and processes that go by themselves when a migration has ended.
constexpr milliseconds kLeaves{5'000};
// Of a request, up to START: so that a message that never comes does not cost PREPARE's minute.
constexpr int kDropDeadlineSeconds = 4;
// Nothing else is waited for but this machine.
constexpr int kDeadlineSeconds = 30;

std::optional<uint64_t> StepsIn(const GuestProbe& probe) {
  const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(probe, 0);
  if (!mailbox.ok()) return std::nullopt;
  return mailbox->steps;
}

bool GoesOn(pid_t pid, milliseconds patience) {
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
  if (!probe.ok()) return false;
  const std::optional<uint64_t> before = StepsIn(*probe);
  // A process that is gone needs no patience.
  std::optional<uint64_t> now = before;
  Eventually(patience, [&] {
    now = StepsIn(*probe);
    return !now || *now > *before;
  });
  return before && now && *now > *before;
}

// The process that has to run the guest by this record; 0: none.
pid_t RunnerBy(const SweptFault& fault, const Migration& record, pid_t source) {
  if (record.guest_owner() == Migration::SOURCE) return source;
  if (record.guest_owner() == Migration::TARGET) return record.target().pid();
  const bool cut_off =
      record.state() == Migration::INDETERMINATE &&
      (fault.what == SweptFault::What::kMessage || fault.what == SweptFault::What::kDaemonCall);
  return cut_off ? source : 0;
}

// A guest that leaves KVM_RUN only to be paused gives that fault no chance before the pause.
bool ComesInMidst(const SweptFault& fault) {
  return FailsTheGuest(fault) && fault.side == Side::kSource;
}

}  // namespace

absl::Status SweptHost::EnsureHost() {
  if (host_ != nullptr) return absl::OkStatus();
  if (absl::Status status = pages_.Open(); !status.ok()) return status;
  // Not warming its page tables: how many calls that takes differs from run to run, and what fails
  // there fails nothing (page_warmer_kvm_test).
  harness::ProfileConfig profile = {
      .name = harness::ProfileOfVersion(2),
      .command = {harness::BinaryPath("vmm/reference/rehome-vmm-2"), "--target", "--kernel",
                  strategy_.kernel, "--warm-ms=0"},
      .environment = pages_.EnvironmentFor(Side::kTarget)};
  for (const std::string& argument : pages_.ArgumentsFor(Side::kTarget)) {
    profile.command.push_back(argument);
  }
  auto host = harness::HostUnderTest::Start({.kernel = strategy_.kernel,
                                             .daemon_environment = pages_.EnvironmentForDaemon(),
                                             .profiles = {profile}});
  if (!host.ok()) return host.status();
  host_ = *std::move(host);
  return absl::OkStatus();
}

absl::StatusOr<Migration> SweptHost::Watch(const std::string& name) {
  absl::StatusOr<Migration> last = host_->client().WatchMigration(name, {.timeout = kPatience});
  if (last.ok()) return last;
  v1::GetMigrationRequest get;
  get.set_name(name);
  const absl::StatusOr<Migration> now = host_->client().GetMigration(get);
  return absl::DeadlineExceededError(
      absl::StrCat(last.status().ToString(), now.ok() ? now->ShortDebugString() : ""));
}

absl::Status SweptHost::Refused(const SweptFault& fault, const absl::Status& why, SweptRun& run) {
  if (fault.what != SweptFault::What::kDaemonCall) return why;
  // As a record that says what the client was told: nothing has begun.
  run.record.set_state(Migration::FAILED);
  run.record.set_guest_owner(Migration::SOURCE);
  run.record.mutable_error()->set_message(std::string(why.message()));
  return absl::OkStatus();
}

absl::Status SweptHost::Migrate(const SweptFault& fault, SweptRun& run) {
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/guest");
  request.set_target_profile(harness::ProfileOfVersion(2));
  request.set_fence_policy(strategy_.fence_policy);
  const bool drops =
      fault.what == SweptFault::What::kMessage && fault.message == MessageFault::kDrop;
  request.mutable_deadline()->set_seconds(drops ? kDropDeadlineSeconds : kDeadlineSeconds);
  if (!ComesInMidst(fault)) pages_.Arm(fault);
  const absl::StatusOr<Migration> created = host_->client().CreateMigration(request);
  if (!created.ok()) return Refused(fault, created.status(), run);
  if (ComesInMidst(fault)) pages_.Arm(fault);
  absl::StatusOr<Migration> last = Watch(created->name());
  if (!last.ok()) return last.status();
  run.record = *std::move(last);
  return absl::OkStatus();
}

void SweptHost::AwaitLastWords(const SweptRun& run) {
  if (run.record.guest_owner() != Migration::TARGET) return;
  Eventually(kPatience, [&] {
    const uint64_t heard =
        pages_.Counts(Side::kTarget).messages[static_cast<int>(Direction::kToAgent)];
    return pages_.injected() > 0 || heard >= kTargetRegistered;
  });
}

absl::StatusOr<SweptHost::Guest> SweptHost::StartGuest(const SweptFault& fault) {
  harness::VmmOptions options = {.version = 1, .vm_type = strategy_.vm_type, .memory_mib = 16};
  options.arguments = strategy_.vmm_arguments;
  for (const std::string& argument : pages_.ArgumentsFor(Side::kSource)) {
    options.arguments.push_back(argument);
  }
  // Rare steps: a guest that is alone with its CPU takes all of it.
  for (const char* argument : {"--step-ns=1000000", "--working-set-pages=64"}) {
    options.arguments.push_back(argument);
  }
  if (ComesInMidst(fault)) options.arguments.push_back("--heartbeat-ms=1");
  options.environment = pages_.EnvironmentFor(Side::kSource);
  absl::StatusOr<harness::StartedVmm> source = host_->StartVmm(options);
  if (!source.ok()) return source.status();
  Guest guest;
  guest.source = source->process.pid();
  guest.vmm = std::move(source->process);
  if (!Eventually(kPatience, [&] { return GoesOn(guest.source, kGlance); })) {
    return absl::UnavailableError("the guest does not start");
  }
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(guest.source);
  if (!probe.ok()) return probe.status();
  for (const harness::GuestMemoryFile& file : probe->files()) guest.inodes.push_back(file.inode);
  if (strategy_.held) {
    if (absl::Status status = StartStranger(guest); !status.ok()) return status;
  }
  absl::StatusOr<harness::Footprint> before = harness::FootprintOf(*host_);
  if (!before.ok()) return before.status();
  guest.before = *std::move(before);
  return guest;
}

absl::Status SweptHost::StartStranger(Guest& guest) {
  const std::string directory = absl::StrCat("/proc/", guest.source, "/fd");
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const UniqueFd file(open(entry.path().c_str(), O_PATH | O_CLOEXEC));
    const absl::StatusOr<FileIdentity> identity = Identify(file.borrow());
    if (!identity.ok() || identity->id != guest.inodes.front()) continue;
    absl::StatusOr<harness::Process> stranger =
        harness::Process::Start({.argv = {"/bin/sleep", "infinity"},
                                 .environment = {},
                                 .log_path = "/dev/null",
                                 .inherited = {file.borrow()}});
    if (!stranger.ok()) return stranger.status();
    guest.stranger = *std::move(stranger);
    return absl::OkStatus();
  }
  return absl::NotFoundError("the source has no descriptor of its guest's memory");
}

absl::StatusOr<SweptRun> SweptHost::Run(const SweptFault& fault) {
  if (absl::Status status = EnsureHost(); !status.ok()) return status;
  absl::StatusOr<Guest> guest = StartGuest(fault);
  if (!guest.ok()) return guest.status();
  SweptRun run;
  const absl::Status migrated = Migrate(fault, run);
  if (migrated.ok()) AwaitLastWords(run);
  const bool undecided = run.record.state() == Migration::INDETERMINATE;
  if (undecided) JudgeNow(fault, /*lifted=*/false, *guest, run.record, run);
  pages_.Disarm();
  run.injected = pages_.injected();
  for (const Side side : {Side::kSource, Side::kTarget}) {
    run.counts[static_cast<int>(side)] = pages_.Counts(side);
  }
  run.daemon_calls = pages_.CountsOfDaemon();
  if (!migrated.ok()) {
    run.problems.push_back(absl::StrCat("the migration does not end: ", migrated.ToString()));
  } else if (!undecided) {
    JudgeEnd(fault, /*lifted=*/false, *guest, run.record, run);
  } else if (const absl::StatusOr<Migration> resolved = Resolve(run.record); resolved.ok()) {
    JudgeEnd(fault, /*lifted=*/true, *guest, *resolved, run);
  } else {
    run.problems.push_back(absl::StrCat("it is not resolved: ", resolved.status().ToString()));
  }
  if (!run.problems.empty()) {
    run.problems.push_back(absl::StrCat("record: ", run.record.ShortDebugString()));
    run.problems.push_back(absl::StrCat("rehomed: ", host_->DaemonLog()));
  }
  EndGuest(*guest);
  // The next run shall not inherit what is wrong here.
  if (!run.problems.empty()) host_.reset();
  return run;
}

std::vector<pid_t> SweptHost::FindRunners(pid_t expected) const {
  std::vector<pid_t> mapping, running;
  for (const pid_t pid : host_->Processes()) {
    if (pid != host_->daemon().pid() && GuestProbe::Attach(pid).ok()) mapping.push_back(pid);
  }
  // Memory that is shared changes in all of them: who runs the guest is seen when the others stop.
  for (const pid_t pid : mapping) {
    std::vector<ScopedStop> others;
    for (const pid_t other : mapping) {
      if (other == pid) continue;
      absl::StatusOr<ScopedStop> stop = ScopedStop::Stop(other, kPatience);
      if (stop.ok()) others.push_back(*std::move(stop));
    }
    if (GoesOn(pid, pid == expected ? kPatience : kStandsStill)) running.push_back(pid);
  }
  return running;
}

std::vector<pid_t> SweptHost::JudgeNow(const SweptFault& fault, bool lifted, const Guest& guest,
                                       const Migration& record, SweptRun& run) {
  SeenProcesses seen = {.source = guest.source};
  seen.running = FindRunners(RunnerBy(fault, record, guest.source));
  const auto source_is_gone = [&guest] {
    return kill(guest.source, 0) != 0 || harness::ExecutableName(guest.source).empty();
  };
  // A VMM whose guest has ended ends too, in its own time.
  seen.source_lives =
      ComesInMidst(fault) ? !Eventually(kPatience, source_is_gone) : !source_is_gone();
  for (std::string& problem : JudgeRecord(fault, lifted, strategy_, record, seen)) {
    run.problems.push_back((lifted ? "the fault is over: " : "") + std::move(problem));
  }
  for (const pid_t runner : seen.running) JudgeGuest(runner, run);
  return seen.running;
}

void SweptHost::JudgeEnd(const SweptFault& fault, bool lifted, const Guest& guest,
                         const Migration& record, SweptRun& run) {
  const std::vector<pid_t> running = JudgeNow(fault, lifted, guest, record, run);
  std::vector<pid_t> holders = running;
  if (guest.stranger.pid() > 0) holders.push_back(guest.stranger.pid());
  const bool is_known =
      running.size() != 1 || Eventually(kPatience, [&] {
        const absl::StatusOr<v1::VirtualMachine> vm = host_->GetVm("guest");
        return vm.ok() && vm->process().pid() == running.front() && vm->active_migration().empty();
      });
  if (!is_known) run.problems.push_back("the daemon does not find back to the guest");
  for (const std::string& left :
       harness::FindLeftovers(*host_, guest.before, holders, guest.inodes, kLeaves)) {
    run.problems.push_back("left over: " + left);
  }
}

absl::StatusOr<Migration> SweptHost::Resolve(const Migration& record) {
  v1::ResolveMigrationRequest request;
  request.set_name(record.name());
  const absl::StatusOr<Migration> taken_up = host_->client().ResolveMigration(request);
  if (!taken_up.ok()) return taken_up.status();
  return Watch(record.name());
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

void SweptHost::EndGuest(Guest& guest) {
  guest.stranger.KillAndReap();
  guest.vmm.KillAndReap();
  // A daemon that goes on by itself may start another one meanwhile.
  Eventually(kPatience, [&] {
    std::vector<pid_t> left = host_->Processes();
    std::erase(left, host_->daemon().pid());
    for (const pid_t pid : left) kill(pid, SIGKILL);
    for (const pid_t pid : left) Eventually(kPatience, [pid] { return kill(pid, 0) != 0; });
    return left.empty() && !host_->GetVm("guest").ok();
  });
}

}  // namespace rehome
