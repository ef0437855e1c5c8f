// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/stage.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"
#include "tests/chaos/cell_run.h"
#include "tests/harness/proc.h"

namespace rehome::chaos {
namespace {

using harness::HostUnderTest;
using std::chrono::milliseconds;

// For a migration to come to its phase, 100 ms on a quiet machine, or to end at its deadline.
constexpr milliseconds kArriveTimeout{60'000};
// Between two looks whether the migration has ended meanwhile.
constexpr milliseconds kArriveSlice{100};
// Before the pause a side that hangs is given up after this: short, because every cell with one
// waits for it; doubled with each attempt, for a host with much to do.
constexpr milliseconds kHangDeadline{2'000};
constexpr milliseconds kMaxHangDeadline{8'000};
constexpr milliseconds kDeadline{20'000};
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
// Letters of field 3 of /proc/PID/stat, proc(5).
constexpr char kStoppedOrDead[] = "TZX";
constexpr char kDead[] = "ZX";
constexpr uint64_t kMemoryMib = 8;
// Between two looks at what cannot be waited for.
constexpr int kLookMs = 2;
// The guest takes few steps, so that recomputing them is cheap.
const char* const kGuestArguments[] = {"--check-on-exit", "--heartbeat-ms=0", "--step-ns=20000",
                                       "--working-set-pages=64"};

// Until every thread of it is in one of the states.
absl::Status AwaitThreads(pid_t pid, const char* states) {
  for (milliseconds waited{0};
       harness::ThreadStates(pid).find_first_not_of(states) != std::string::npos;
       waited += milliseconds(kLookMs)) {
    if (waited > kArriveTimeout) {
      return absl::InternalError(absl::StrCat("a thread of ", pid, " is not in any of ", states));
    }
    poll(nullptr, 0, kLookMs);
  }
  return absl::OkStatus();
}

std::string Meet(const Phase& phase) { return "--meet-at=" + phase.place; }

}  // namespace

Stage::~Stage() {
  watch_.reset();
  if (meeting_ != nullptr) meeting_->Release();
  host_.reset();
  // It became ours when its daemon died.
  if (target_pid_ > 0) waitpid(target_pid_, nullptr, WNOHANG);
}

absl::Status Stage::SetUp() {
  absl::Status status = StartHost();
  return status.ok() ? StartGuest() : status;
}

absl::Status Stage::StartHost() {
  absl::StatusOr<harness::MeetingPlace> meeting = harness::MeetingPlace::Open();
  if (!meeting.ok()) return meeting.status();
  meeting_ = std::make_unique<harness::MeetingPlace>(*std::move(meeting));
  harness::HostOptions options = {
      .kernel = cell_.variant.backend,
      .daemon_lines = {absl::StrCat("handover_timeout_ms = ", kClaimTimeout.count()),
                       absl::StrCat("resolve_timeout_ms = ", kResolveTimeout.count())},
      .target_arguments = {"--check-on-exit"}};
  const bool hangs = cell_.blow == Blow::kStop;
  if (hangs && (cell_.victims.source || cell_.victims.target)) {
    options.daemon_lines.emplace_back(kShortAgent);
  }
  if (hangs && cell_.victims.target) options.daemon_lines.emplace_back(kShortFirstRun);
  options.daemon_lines.emplace_back(MayBeIndeterminate(cell_) ? kShortExit : kLongExit);
  if (cell_.phase.place == "release") options.daemon_lines.emplace_back(kLongRelease);
  if (cell_.phase.side == Side::kTarget) {
    options.target_arguments.push_back(Meet(cell_.phase));
    options.target_arguments.push_back("--meet-socket=" + meeting_->path());
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
  if (cell_.phase.side == Side::kSource) {
    options.arguments.push_back(Meet(cell_.phase));
    options.arguments.push_back("--meet-socket=" + meeting_->path());
  }
  absl::StatusOr<harness::StartedVmm> vmm = host_->StartVmm(options);
  if (!vmm.ok()) return vmm.status();
  vmm_ = *std::move(vmm);
  source_pid_ = vmm_.process.pid();
  // Registered a moment before the guest is loaded.
  absl::StatusOr<std::unique_ptr<harness::GuestWatch>> watch = absl::NotFoundError("no guest");
  absl::StatusOr<harness::GuestProbe> probe = absl::NotFoundError("no guest");
  for (milliseconds waited{0}; !watch.ok() && waited < kArriveTimeout; waited += milliseconds(2)) {
    probe = harness::GuestProbe::Attach(source_pid_);
    if (probe.ok()) watch = harness::GuestWatch::Start(source_pid_);
    if (!watch.ok()) poll(nullptr, 0, kLookMs);
  }
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  for (const harness::GuestMemoryFile& file : probe->files()) inodes_.push_back(file.inode);
  if (!watch_->AwaitProgress(kArriveTimeout)) return absl::InternalError("the guest never ran");
  absl::StatusOr<harness::Footprint> footprint = harness::FootprintOf(*host_);
  if (!footprint.ok()) return footprint.status();
  footprint_ = *std::move(footprint);
  return absl::OkStatus();
}

MigrationClient Stage::NewClient() const {
  return MigrationClient(ClientOptions{.socket_path = host_->api_socket()});
}

absl::StatusOr<v1::Migration> Stage::Record() const {
  v1::GetMigrationRequest get;
  get.set_name(migration_);
  return NewClient().GetMigration(get);
}

absl::Status Stage::StartMigration() {
  watch_->ResetStandstill();
  v1::CreateMigrationRequest request;
  request.set_vm(absl::StrCat("virtualMachines/", kVmId));
  request.set_target_profile(harness::ProfileOfVersion(2));
  request.set_fence_policy(cell_.variant.policy);
  const milliseconds deadline = cell_.blow == Blow::kStop
                                    ? std::min(kHangDeadline * (1 << attempt_), kMaxHangDeadline)
                                    : kDeadline;
  request.mutable_deadline()->set_seconds(
      std::chrono::duration_cast<std::chrono::seconds>(deadline).count());
  const absl::StatusOr<v1::Migration> created = NewClient().CreateMigration(request);
  if (!created.ok()) return created.status();
  migration_ = created->name();
  return absl::OkStatus();
}

absl::StatusOr<bool> Stage::AwaitArrival() {
  std::string last;
  for (milliseconds waited{0}; waited < kArriveTimeout; waited += kArriveSlice) {
    if (meeting_->SomebodyIsHere(kArriveSlice)) {
      arrived_ = std::chrono::steady_clock::now();
      return true;
    }
    const absl::StatusOr<v1::Migration> record = Record();
    if (!record.ok()) return record.status();
    last = v1::Migration::State_Name(record->state());
    if (!IsFinished(*record)) continue;
    arrived_ = std::chrono::steady_clock::now();
    // It may have come just before the end.
    return meeting_->SomebodyIsHere(milliseconds(0));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the migration neither ends nor comes to its phase; it is ", last));
}

absl::StatusOr<bool> Stage::ReachPhase() {
  if (absl::Status status = StartMigration(); !status.ok()) return status;
  const absl::StatusOr<bool> came = AwaitArrival();
  if (!came.ok()) return came.status();
  if (!*came) {
    meeting_->Release();
    return false;
  }
  const absl::StatusOr<harness::MeetingPlace::Arrival> arrival = meeting_->Await(kArriveTimeout);
  if (!arrival.ok()) return arrival.status();
  if (absl::Status status = FindTarget(*arrival); !status.ok()) return status;
  if (AwaitsTheFence(cell_)) {
    if (absl::Status status = AwaitThreads(source_pid_, kDead); !status.ok()) return status;
    return true;
  }
  const absl::StatusOr<bool> late = IsTooLate();
  if (late.ok() && *late) meeting_->Release();
  return late.ok() ? absl::StatusOr<bool>(!*late) : late;
}

// A target that is held in the midst of the handover is taken for one that hangs when the deadline
// has passed, and then the guest goes on elsewhere: whoever is struck then is struck after that.
absl::StatusOr<bool> Stage::IsTooLate() const {
  if (cell_.phase.side != Side::kTarget || !IsMidHandover(cell_.phase)) return false;
  const absl::StatusOr<v1::Migration> record = Record();
  if (!record.ok()) return record.status();
  const bool over =
      record->state() == v1::Migration::ROLLING_BACK || record->state() == v1::Migration::FAILED;
  return over || std::chrono::steady_clock::now() - arrived_ > kResolveTimeout / 2;
}

absl::Status Stage::FindTarget(const harness::MeetingPlace::Arrival& arrival) {
  if (cell_.phase.side == Side::kTarget) {
    target_pid_ = arrival.pid;
  } else {
    const absl::StatusOr<v1::Migration> record = Record();
    if (!record.ok()) return record.status();
    target_pid_ = record->target().pid();
  }
  if (target_pid_ == 0) return absl::OkStatus();
  watch_->AddProcess(target_pid_);
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(target_pid_);
  if (pidfd.ok()) {
    target_pidfd_ = *std::move(pidfd);
  } else if (cell_.victims.target) {
    return pidfd.status();
  }
  return absl::OkStatus();
}

// The daemon first: it is not to see what happens to the others.
void Stage::Signal(int signal_number) {
  if (cell_.victims.daemon) host_->daemon().Signal(signal_number);
  if (cell_.victims.source) vmm_.process.Signal(signal_number);
  if (cell_.victims.target && target_pidfd_) {
    SendSignal(target_pidfd_.borrow(), signal_number).IgnoreError();
  }
}

absl::Status Stage::Strike() {
  Signal(cell_.blow == Blow::kKill ? SIGKILL : SIGSTOP);
  absl::Status status;
  if (cell_.blow == Blow::kStop) status = AwaitStopped();
  if (cell_.blow == Blow::kKill && cell_.victims.daemon) host_->KillDaemon();
  meeting_->Release();
  held_for_ = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - arrived_);
  return status;
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
  return absl::OkStatus();
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

absl::StatusOr<v1::Migration> Stage::AwaitEnd(milliseconds timeout) {
  return NewClient().WatchMigration(migration_, {.timeout = timeout});
}

std::string Stage::Logs() const {
  if (host_ == nullptr) return "";
  return "rehomed:\n" + host_->DaemonLog() + "\nVMMs:\n" + host_->VmmLogs();
}

std::vector<pid_t> Stage::Vmms() const {
  std::vector<pid_t> vmms = host_->Processes();
  std::erase(vmms, host_->daemon().pid());
  return vmms;
}

}  // namespace rehome::chaos
