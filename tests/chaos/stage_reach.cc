// SPDX-License-Identifier: Apache-2.0
//
// How a migration comes to its cell's phase.
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"
#include "tests/chaos/cell_run.h"
#include "tests/chaos/late_cell.h"
#include "tests/chaos/stage.h"
#include "tests/chaos/threads.h"

namespace rehome::chaos {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Between two looks whether the migration has ended meanwhile.
constexpr milliseconds kArriveSlice{100};
// The same of a daemon that has just been started, and nearly always comes. A call to one that does
// not serve yet can leave a connection behind that nobody of us closes, because gRPC looks at its
// sockets during calls only; it would count as the daemon's leftover.
constexpr milliseconds kStartSlice{5'000};
// Before the pause a side that hangs is given up after this: short, because every cell with one
// waits for it; doubled with each attempt, for a host with much to do.
constexpr milliseconds kHangDeadline{2'000};
constexpr milliseconds kMaxHangDeadline{8'000};
constexpr milliseconds kDeadline{20'000};
// The daemon's for an answer of an agent, where somebody hangs; else it is twice that.
constexpr milliseconds kArmTimeout{1'000};

}  // namespace

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
  const bool may_hang = cell_.blow == Blow::kStop && cell_.within == Within::kHandover;
  const milliseconds deadline =
      may_hang ? std::min(kHangDeadline * (1 << attempt_), kMaxHangDeadline) : kDeadline;
  request.mutable_deadline()->set_seconds(
      std::chrono::duration_cast<std::chrono::seconds>(deadline).count());
  const absl::StatusOr<v1::Migration> created = NewClient().CreateMigration(request);
  if (!created.ok()) return created.status();
  migration_ = created->name();
  return absl::OkStatus();
}

absl::StatusOr<bool> Stage::AwaitArrival() {
  std::string last = "unknown";
  const auto deadline = steady_clock::now() + kArriveTimeout;
  const milliseconds slice =
      journal_ != nullptr && journal_->page().armed.load() != 0 ? kStartSlice : kArriveSlice;
  while (steady_clock::now() < deadline) {
    if (meeting_->SomebodyIsHere(slice)) {
      arrived_ = steady_clock::now();
      return true;
    }
    const absl::StatusOr<v1::Migration> record = Record();
    // A daemon that has just been started does not answer yet.
    if (!record.ok() && cell_.within == Within::kRecovery) continue;
    if (!record.ok()) return record.status();
    last = v1::Migration::State_Name(record->state());
    if (!IsFinished(*record)) continue;
    arrived_ = steady_clock::now();
    // It may have come just before the end.
    return meeting_->SomebodyIsHere(milliseconds(0));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the migration neither ends nor comes to its phase; it is ", last));
}

absl::StatusOr<Reached> Stage::ReachPhase() {
  if (absl::Status status = StartMigration(); !status.ok()) return status;
  const bool is_late = cell_.within != Within::kHandover;
  const Cell plain = is_late ? Unstruck(cell_, /*first_landed=*/true) : cell_;
  absl::StatusOr<bool> there = ReachHandover(plain);
  Reached before = Reached::kNothing;
  if (is_late && there.ok() && *there) {
    before = Reached::kFirst;
    if (absl::Status status = StrikeFirst(); !status.ok()) return status;
    there = cell_.within == Within::kRescue ? ReachRescue() : ReachRecovery();
  }
  if (!there.ok()) return there.status();
  if (*there) return Reached::kPhase;
  LetGo();
  return before;
}

absl::StatusOr<bool> Stage::ReachHandover(const Cell& plain) {
  while (true) {
    const absl::StatusOr<bool> came = AwaitArrival();
    if (!came.ok() || !*came) return came;
    const absl::StatusOr<harness::MeetingPlace::Arrival> arrival = meeting_->Await(kArriveTimeout);
    if (!arrival.ok()) return arrival.status();
    if (arrival->place == plain.phase.place) {
      const bool is_target = plain.phase.side == Side::kTarget;
      absl::Status status = FindTarget(is_target ? arrival->pid : 0, plain.victims.target);
      if (!status.ok()) return status;
      break;
    }
    // The first target, at the place where the next one is to be held.
    meeting_->LetGo();
  }
  if (AwaitsTheFence(plain)) {
    absl::Status status = AwaitThreads(source_pid_, kDead);
    return status.ok() ? absl::StatusOr<bool>(true) : status;
  }
  const absl::StatusOr<bool> late = IsTooLate(plain.phase);
  return late.ok() ? absl::StatusOr<bool>(!*late) : late;
}

// A target that is held in the midst of the handover is taken for one that hangs when the deadline
// has passed, and then the guest goes on elsewhere: whoever is struck then is struck after that.
absl::StatusOr<bool> Stage::IsTooLate(const Phase& phase) const {
  if (phase.side != Side::kTarget || !IsMidHandover(phase)) return false;
  const absl::StatusOr<v1::Migration> record = Record();
  if (!record.ok()) return record.status();
  const bool over =
      record->state() == v1::Migration::ROLLING_BACK || record->state() == v1::Migration::FAILED;
  return over || steady_clock::now() - arrived_ > ResolveTimeoutOf(cell_) / 2;
}

absl::Status Stage::StrikeFirst() {
  const Victims& victims = cell_.first.victims;
  Signal(victims, SIGKILL);
  if (victims.daemon) host_->KillDaemon();
  meeting_->LetGo();
  if (StandingAfter(cell_.variant, cell_.first) == Standing::kStranded) return absl::OkStatus();
  if (AwaitSettled(kArriveTimeout)) return absl::OkStatus();
  return absl::InternalError("after the first blow the guest does not go on");
}

absl::StatusOr<bool> Stage::ReachRescue() {
  const pid_t first = target_pid_;
  while (true) {
    const absl::StatusOr<bool> came = AwaitArrival();
    if (!came.ok() || !*came) return came;
    const absl::StatusOr<harness::MeetingPlace::Arrival> arrival = meeting_->Await(kArriveTimeout);
    if (!arrival.ok()) return arrival.status();
    if (arrival->pid != first && arrival->place == cell_.phase.place) {
      absl::Status status = FindTarget(arrival->pid, cell_.victims.target);
      if (!status.ok()) return status;
      break;
    }
    meeting_->LetGo();
  }
  const absl::StatusOr<v1::Migration> record = Record();
  if (!record.ok()) return record.status();
  // Held beyond its deadline it is replaced; and each attempt before it is one less for after it.
  const bool is_first = record->rescue().attempts() == 1;
  const bool has_limit = IsMidHandover(cell_.phase) || cell_.phase.place == "arm";
  const milliseconds limit = std::min(ResolveTimeoutOf(cell_), kArmTimeout) / 2;
  return is_first && (!has_limit || steady_clock::now() - arrived_ <= limit);
}

absl::StatusOr<bool> Stage::ReachRecovery() {
  const RecoveryPlace place = FindRecoveryPlace(cell_.phase.place);
  JournalCrashPage& page = journal_->page();
  meeting_->path().copy(page.meet_socket, sizeof(page.meet_socket) - 1);
  page.crash_at.store(place.append);
  page.is_before.store(place.is_before ? 1 : 0);
  page.armed.store(1);
  if (absl::Status status = host_->LaunchDaemon(); !status.ok()) return status;
  while (true) {
    const absl::StatusOr<bool> came = AwaitArrival();
    if (!came.ok() || !*came) return came;
    const absl::StatusOr<harness::MeetingPlace::Arrival> arrival = meeting_->Await(kArriveTimeout);
    if (!arrival.ok()) return arrival.status();
    if (arrival->pid == host_->daemon().pid()) return true;
    // A rescue's target, at the place of the first blow.
    meeting_->LetGo();
  }
}

// `pid`: of the one that has come; 0: the one on record, if there is one.
absl::Status Stage::FindTarget(pid_t pid, bool is_victim) {
  target_pid_ = pid;
  if (pid == 0) {
    const absl::StatusOr<v1::Migration> record = Record();
    if (!record.ok()) return record.status();
    target_pid_ = record->target().pid();
  }
  if (target_pid_ == 0) return absl::OkStatus();
  targets_.push_back(target_pid_);
  watch_->AddProcess(target_pid_);
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(target_pid_);
  if (!pidfd.ok()) return is_victim ? pidfd.status() : absl::OkStatus();
  target_pidfd_ = *std::move(pidfd);
  return absl::OkStatus();
}

}  // namespace rehome::chaos
