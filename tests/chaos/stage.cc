// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/stage.h"

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"
#include "tests/chaos/cell_run.h"
#include "tests/chaos/threads.h"
#include "tests/harness/eventually.h"
#include "tests/harness/guest_probe.h"

namespace rehome::chaos {
namespace {

using harness::HostUnderTest;
using std::chrono::milliseconds;

// The daemon's own waits for what hangs: a fraction of what operators get, because cells wait for
// them to pass. Only where they must, so that elsewhere a busy host is not taken for one.
constexpr char kShortAgent[] = "agent_timeout_ms = 1000";
constexpr char kShortFirstRun[] = "first_run_timeout_ms = 2000";
// Also how long a daemon waits for a source that is silent before it says INDETERMINATE.
constexpr char kShortExit[] = "exit_timeout_ms = 3000";
// On a machine with ten times the work that it can do, the kernel has been seen to take more than
// 10 s to take down the VM of a killed process.
constexpr char kLongExit[] = "exit_timeout_ms = 60000";
// A source that is held at `release` is to be struck before it is killed for not leaving.
constexpr char kLongRelease[] = "release_timeout_ms = 2000";
constexpr uint64_t kMemoryMib = 8;
// The guest takes few steps, so that recomputing them is cheap.
const char* const kGuestArguments[] = {"--check-on-exit", "--heartbeat-ms=0", "--step-ns=20000",
                                       "--working-set-pages=64"};

std::string Line(const char* key, milliseconds value) {
  return absl::StrCat(key, " = ", value.count());
}

// The daemon's waits in a cell.
std::vector<std::string> DaemonLines(const Cell& cell) {
  const bool late = cell.within != Within::kHandover, hangs = cell.blow == Blow::kStop;
  const milliseconds late_claim = hangs ? kLateStopClaim : kLateKillClaim;
  std::vector<std::string> lines = {Line("handover_timeout_ms", late ? late_claim : kClaimTimeout),
                                    Line("resolve_timeout_ms", ResolveTimeoutOf(cell)),
                                    MayBeIndeterminate(cell) ? kShortExit : kLongExit};
  if (hangs && (cell.victims.source || cell.victims.target)) lines.emplace_back(kShortAgent);
  if (hangs && cell.victims.target) lines.emplace_back(kShortFirstRun);
  if (cell.phase.place == "release") lines.emplace_back(kLongRelease);
  return lines;
}

// Where VMMs of that side are met.
std::vector<std::string> MeetArguments(const Cell& cell, Side side, const std::string& socket) {
  std::vector<std::string> arguments;
  for (const Phase& phase : {cell.phase, cell.first.phase}) {
    if (phase.place.empty() || phase.side != side) continue;
    arguments.push_back("--meet-at=" + phase.place);
  }
  if (!arguments.empty()) arguments.push_back("--meet-socket=" + socket);
  return arguments;
}

}  // namespace

milliseconds ResolveTimeoutOf(const Cell& cell) {
  if (cell.within == Within::kHandover) return kResolveTimeout;
  return cell.blow == Blow::kStop ? kLateStopResolve : kLateKillResolve;
}

Stage::~Stage() {
  watch_.reset();
  if (meeting_ != nullptr) meeting_->Release();
  host_.reset();
  // They became ours when their daemon died.
  for (const pid_t target : targets_) waitpid(target, nullptr, WNOHANG);
}

absl::Status Stage::SetUp() {
  absl::Status status = StartHost();
  return status.ok() ? StartGuest() : status;
}

absl::Status Stage::StartHost() {
  absl::StatusOr<harness::MeetingPlace> meeting = harness::MeetingPlace::Open();
  if (!meeting.ok()) return meeting.status();
  meeting_ = std::make_unique<harness::MeetingPlace>(*std::move(meeting));
  harness::HostOptions options = {.kernel = cell_.variant.backend,
                                  .daemon_lines = DaemonLines(cell_),
                                  .target_arguments = {"--check-on-exit"}};
  for (std::string& argument : MeetArguments(cell_, Side::kTarget, meeting_->path())) {
    options.target_arguments.push_back(std::move(argument));
  }
  if (cell_.within == Within::kRecovery) {
    absl::StatusOr<std::unique_ptr<JournalCrashFile>> journal = JournalCrashFile::Create();
    if (!journal.ok()) return journal.status();
    journal_ = *std::move(journal);
    options.daemon_environment = journal_->DaemonEnvironment();
  }
  if (TargetDiesFirst(cell_.phase)) options.target_arguments.push_back("--die-at=claimed");
  if (cell_.store) {
    absl::StatusOr<std::unique_ptr<harness::ServiceManager>> manager =
        harness::ServiceManager::Open();
    if (!manager.ok()) return manager.status();
    manager_ = *std::move(manager);
    options.service_manager = manager_.get();
  }
  absl::StatusOr<std::unique_ptr<HostUnderTest>> host = HostUnderTest::Start(options);
  if (!host.ok()) return host.status();
  host_ = *std::move(host);
  return absl::OkStatus();
}

absl::Status Stage::StartGuest() {
  harness::VmmOptions options = {
      .vm_id = kVmId, .vm_type = cell_.variant.vm_type, .memory_mib = kMemoryMib};
  options.arguments.assign(std::begin(kGuestArguments), std::end(kGuestArguments));
  if (!cell_.variant.memory_kind.empty()) {
    options.arguments.push_back("--memory-kind=" + cell_.variant.memory_kind);
  }
  for (std::string& argument : MeetArguments(cell_, Side::kSource, meeting_->path())) {
    options.arguments.push_back(std::move(argument));
  }
  absl::StatusOr<harness::StartedVmm> vmm = host_->StartVmm(options);
  if (!vmm.ok()) return vmm.status();
  vmm_ = *std::move(vmm);
  source_pid_ = vmm_.process.pid();
  // Registered a moment before the guest is loaded.
  absl::StatusOr<std::unique_ptr<harness::GuestWatch>> watch = absl::NotFoundError("no guest");
  absl::StatusOr<harness::GuestProbe> probe = absl::NotFoundError("no guest");
  harness::Eventually(kArriveTimeout, [&] {
    probe = harness::GuestProbe::Attach(source_pid_);
    if (probe.ok()) watch = harness::GuestWatch::Start(source_pid_);
    return watch.ok();
  });
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  for (const harness::GuestMemoryFile& file : probe->files()) inodes_.push_back(file.inode);
  if (!watch_->AwaitProgress(kArriveTimeout)) return absl::InternalError("the guest never ran");
  absl::StatusOr<harness::Footprint> footprint = harness::FootprintOf(*host_);
  if (!footprint.ok()) return footprint.status();
  footprint_ = *std::move(footprint);
  return absl::OkStatus();
}

// The daemon first: it is not to see what happens to the others.
void Stage::Signal(const Victims& victims, int signal_number) {
  if (victims.daemon) host_->daemon().Signal(signal_number);
  if (victims.source) vmm_.process.Signal(signal_number);
  if (victims.target && target_pidfd_) {
    SendSignal(target_pidfd_.borrow(), signal_number).IgnoreError();
  }
}

absl::Status Stage::Strike() {
  Signal(cell_.victims, cell_.blow == Blow::kKill ? SIGKILL : SIGSTOP);
  absl::Status status;
  if (cell_.blow == Blow::kStop) status = AwaitStopped();
  if (cell_.blow == Blow::kKill && cell_.victims.daemon) host_->KillDaemon();
  LetGo();
  held_for_ = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - arrived_);
  return status;
}

// Whoever is held, and whoever would be.
void Stage::LetGo() {
  if (journal_ != nullptr) journal_->page().armed.store(0);
  meeting_->Release();
}

// SIGKILL is everybody's at once. SIGSTOP is one thread's, which then stops the others: the one
// that is held could pass on meanwhile. A source that the daemon has killed already stops no more.
absl::Status Stage::AwaitStopped() const {
  std::vector<pid_t> stopped;
  if (cell_.victims.daemon) stopped.push_back(host_->daemon().pid());
  if (cell_.victims.source) stopped.push_back(source_pid_);
  if (cell_.victims.target) stopped.push_back(target_pid_);
  for (const pid_t pid : stopped) {
    if (absl::Status status = AwaitThreads(pid, kStoppedOrDead); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool Stage::AwaitSettled(milliseconds timeout) { return watch_->AwaitProgress(timeout); }

absl::Status Stage::BringDaemonBack() {
  if (cell_.blow == Blow::kKill) return host_->StartDaemon();
  host_->daemon().Signal(SIGCONT);
  return AwaitDaemon();
}

void Stage::LetVmmsGo() {
  if (cell_.blow != Blow::kStop) return;
  if (cell_.victims.source) vmm_.process.Signal(SIGCONT);
  if (cell_.victims.target && target_pidfd_) {
    SendSignal(target_pidfd_.borrow(), SIGCONT).IgnoreError();
  }
}

absl::Status Stage::Resolve() {
  v1::ResolveMigrationRequest request;
  request.set_name(migration_);
  return NewClient().ResolveMigration(request).status();
}

absl::Status Stage::EndSource() {
  vmm_.process.Signal(SIGKILL);
  return AwaitThreads(source_pid_, kDead);
}

absl::Status Stage::RestartDaemon() {
  host_->KillDaemon();
  return host_->StartDaemon();
}

absl::StatusOr<v1::Migration> Stage::AwaitEnd(milliseconds timeout) {
  return NewClient().WatchMigration(migration_, {.timeout = timeout});
}

std::string Stage::Logs() const {
  if (host_ == nullptr) return "";
  return "rehomed:\n" + host_->DaemonLog() + "\nVMMs:\n" + host_->VmmLogs();
}

std::vector<std::string> Stage::stored() const {
  return manager_ == nullptr ? std::vector<std::string>() : manager_->stored();
}

std::vector<pid_t> Stage::Vmms() const {
  std::vector<pid_t> vmms = host_->Processes();
  std::erase(vmms, host_->daemon().pid());
  return vmms;
}

}  // namespace rehome::chaos
