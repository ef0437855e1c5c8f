// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/cell_run.h"

#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/api_error.h"
#include "tests/chaos/stage.h"
#include "tests/harness/eventually.h"
#include "tests/harness/proc.h"
#include "vmm/reference/guest_check.h"

namespace rehome::chaos {
namespace {

using harness::GuestProbe;
using harness::ScopedStop;
using std::chrono::milliseconds;
using v1::Migration;

// Bound of every wait for something that must happen; longer than the longest of the daemon's own,
// which is kLongExit of stage.cc.
constexpr milliseconds kPatience{120'000};
// What goes by itself is no leftover: a child that is about to be reaped, a connection.
constexpr milliseconds kLeftoverPatience{10'000};
// With a VMM among the victims the guest may stand still for good: then its daemon comes back a
// little after both deadlines.
constexpr milliseconds kSettleMargin{400};
// A stopped process is given so long to show that the guest runs all the same, elsewhere.
constexpr milliseconds kStillness{20};

bool Soon(const std::function<bool()>& holds) {
  return harness::Eventually(kLeftoverPatience, holds);
}

// What matters of a record, for a line of a table.
std::string Brief(const Migration& record) {
  return absl::StrCat(Migration::State_Name(record.state()), ", ",
                      Migration::GuestOwner_Name(record.guest_owner()), ", ",
                      DetailsOf(record.error()).info.reason(), " (", record.error().message(), ")");
}

// Judges one cell.
class Judge {
 public:
  // `cell`: as far as it was struck (Unstruck()).
  Judge(const Cell& cell, Stage& stage, CellResult& result)
      : cell_(cell), stage_(stage), result_(result) {}

  // Every step of a cell from the blow on.
  absl::Status Run();
  // Of a migration that ended before it came to its phase.
  absl::Status JudgeUnstruck();

 private:
  void Fault(std::string_view what) { result_.faults.emplace_back(what); }
  absl::Status StrikeAndSettle();
  absl::StatusOr<Migration> AwaitOutcome();
  absl::StatusOr<Migration> ResolveByHand();
  void JudgeRecord(const Migration& record);
  void JudgeState(const Migration& record);
  void JudgeLoss(const Migration& record);
  void JudgeLife(const Migration& record);
  void JudgeGuest(pid_t pid);
  void AwaitVmms(const std::vector<pid_t>& expected);
  void AwaitUnlisted();
  void JudgeRemains();

  const Cell& cell_;
  Stage& stage_;
  CellResult& result_;
};

absl::Status Judge::Run() {
  absl::Status status = StrikeAndSettle();
  if (!status.ok()) return status;
  absl::StatusOr<Migration> record = AwaitOutcome();
  if (!record.ok()) return record.status();
  JudgeRecord(*record);
  return absl::OkStatus();
}

absl::Status Judge::JudgeUnstruck() {
  // The one that a first blow killed may just have come back.
  absl::Status serves = stage_.AwaitDaemon();
  if (!serves.ok()) return serves;
  const absl::StatusOr<Migration> record = stage_.AwaitEnd(kPatience);
  if (!record.ok()) return record.status();
  JudgeRecord(*record);
  if (!result_.faults.empty()) Fault("its own blow did not land");
  return absl::OkStatus();
}

void Judge::JudgeRecord(const Migration& record) {
  JudgeState(record);
  if (record.guest_owner() == Migration::NOBODY) {
    JudgeLoss(record);
  } else {
    JudgeLife(record);
  }
  for (const std::string& violation : stage_.watch().violations()) Fault(violation);
  if (!result_.faults.empty()) Fault("the record says " + Brief(record));
  JudgeRemains();
}

absl::Status Judge::StrikeAndSettle() {
  absl::Status status = stage_.Strike();
  if (!status.ok()) return status;
  if (!cell_.victims.daemon) {
    return cell_.within == Within::kRecovery ? stage_.AwaitDaemon() : absl::OkStatus();
  }
  const bool goes_on = GoesOnWithoutDaemon(cell_);
  // Of a cell in a rescue or a recovery nobody is left who would settle anything by a deadline.
  if (goes_on || cell_.within == Within::kHandover) {
    const bool runs = stage_.AwaitSettled(goes_on ? kPatience : kBlackoutDeadline + kSettleMargin);
    if (goes_on && !runs) Fault("without its daemon the guest does not run again");
  }
  if (goes_on && cell_.blow == Blow::kKill && cell_.within == Within::kHandover &&
      IsMidHandover(cell_.phase)) {
    result_.orphaned_standstill = stage_.watch().longest_standstill();
    result_.held_for = stage_.held_for();
  }
  return stage_.BringDaemonBack();
}

absl::StatusOr<Migration> Judge::AwaitOutcome() {
  const bool hung = cell_.blow == Blow::kStop && (cell_.victims.source || cell_.victims.target);
  absl::StatusOr<Migration> record = stage_.AwaitEnd(kPatience);
  if (!record.ok() && hung) {
    Fault("not settled while a VMM hangs: " + record.status().ToString());
    stage_.LetVmmsGo();
    record = stage_.AwaitEnd(kPatience);
  }
  stage_.LetVmmsGo();
  if (!record.ok() || record->state() != Migration::INDETERMINATE) return record;
  const bool by_hand = StaysUndecidedForWantOfABlock(cell_) || LosesItsLastContext(cell_);
  if (!by_hand && !MayBeIndeterminate(cell_)) Fault("without need: " + Brief(*record));
  result_.ending = "resolved, ";
  if (absl::Status status = stage_.Resolve(); !status.ok()) return status;
  record = stage_.AwaitEnd(kPatience);
  if (!record.ok() || record->state() != Migration::INDETERMINATE) return record;
  if (by_hand) return ResolveByHand();
  Fault("INDETERMINATE, and resolving it changes nothing");
  return record;
}

// docs/runbooks/indeterminate.md, 4.
absl::StatusOr<Migration> Judge::ResolveByHand() {
  result_.ending = "by hand, ";
  absl::Status status = stage_.EndSource();
  if (status.ok()) status = stage_.Resolve();
  if (!status.ok()) return status;
  const absl::StatusOr<Migration> record = stage_.AwaitEnd(kPatience);
  const bool ended = !record.ok() || record->state() != Migration::INDETERMINATE;
  if (ended || !LosesItsLastContext(cell_)) return record;
  // What it holds does the guest no good.
  status = stage_.RestartDaemon();
  return status.ok() ? stage_.AwaitEnd(kPatience) : status;
}

// FAILED goes with a guest on its source or with nobody's, SUCCEEDED with one on the target. In
// between there is only what hung for longer than the daemon waits: a target that has not confirmed
// that it runs the guest, and a source that came round and whose exit took longer than that short
// wait. That it has exited in the end is judged as everywhere.
void Judge::JudgeState(const Migration& record) {
  const bool succeeded = record.state() == Migration::SUCCEEDED;
  if (MustSucceed(cell_) && !succeeded) Fault("it had to succeed");
  const bool on_target = record.guest_owner() == Migration::TARGET;
  if (succeeded == on_target) return;
  const std::string why = on_target ? DetailsOf(record.error()).info.reason() : "";
  const bool hung_target = cell_.blow == Blow::kStop && cell_.victims.target;
  if (hung_target && why == "FIRST_RUN_NOT_SEEN") return;
  if (!(MayBeIndeterminate(cell_) && why == "FENCE_TIMEOUT"))
    Fault("its state and its owner contradict each other");
}

void Judge::JudgeLoss(const Migration& record) {
  result_.ending += "lost";
  result_.outcome = Outcome::kLostHonestly;
  if (!MayBeLost(cell_)) Fault("the guest was lost without need");
  if (record.state() != Migration::FAILED) Fault("lost, and not FAILED");
  if (DetailsOf(record.error()).info.reason().empty() || record.error().message().empty()) {
    Fault("lost without a reason");
  }
  AwaitVmms({});
  AwaitUnlisted();
}

void Judge::JudgeLife(const Migration& record) {
  const bool on_source = record.guest_owner() == Migration::SOURCE;
  if (!on_source && record.guest_owner() != Migration::TARGET) {
    Fault("the record names no owner");
    return;
  }
  const pid_t pid = on_source ? stage_.source() : record.target().pid();
  const pid_t struck = on_source ? stage_.source() : stage_.target();
  if (pid == struck && MayDieAsOwner(cell_, on_source ? Side::kSource : Side::kTarget)) {
    // It was not dead yet when the migration ended: a VMM that dies after it, as any can.
    result_.outcome = Outcome::kLostHonestly;
    result_.ending += on_source ? "source, then dead" : "target, then dead";
    AwaitVmms({});
    return AwaitUnlisted();
  }
  result_.outcome = Outcome::kHeld;
  result_.ending += on_source ? "source" : "target";
  stage_.watch().AddProcess(pid);
  AwaitVmms({pid});
  JudgeGuest(pid);
  if (!Soon([&] {
        const auto vm = stage_.host().GetVm(kVmId);
        return vm.ok() && vm->process().pid() == pid;
      })) {
    Fault("the VM is not listed under the process that has it");
  }
}

// What the daemon says of a VM whose process is gone.
void Judge::AwaitUnlisted() {
  if (!Soon([&] { return absl::IsNotFound(stage_.host().GetVm(kVmId).status()); })) {
    Fault("a lost VM is still listed");
  }
}

// It goes on in `pid`, nowhere else, and has missed and repeated nothing since it was started.
void Judge::JudgeGuest(pid_t pid) {
  if (!stage_.watch().AwaitProgress(kLeftoverPatience)) {
    Fault("nobody runs the guest");
    return;
  }
  {
    const absl::StatusOr<ScopedStop> stop = ScopedStop::Stop(pid, kPatience);
    if (!stop.ok()) return Fault("its process: " + stop.status().ToString());
    const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
    if (!probe.ok()) return Fault("its memory: " + probe.status().ToString());
    GuestChecker checker;
    const absl::StatusOr<GuestReport> report = checker.Check(*probe);
    if (!report.ok()) return Fault("its memory: " + report.status().ToString());
    if (!report->intact) Fault("the guest is damaged: " + report->difference);
    if (report->errors != 0) Fault(absl::StrCat("the guest counts ", report->errors, " errors"));
    if (stage_.watch().AwaitProgress(kStillness)) Fault("the guest also runs somewhere else");
  }
  if (!stage_.watch().AwaitProgress(kLeftoverPatience)) Fault("the guest does not go on");
}

void Judge::AwaitVmms(const std::vector<pid_t>& expected) {
  std::vector<pid_t> vmms;
  if (Soon([&] { return (vmms = stage_.Vmms()) == expected; })) return;
  std::string text = "VMMs that live:";
  for (const pid_t pid : vmms) absl::StrAppend(&text, " ", pid);
  absl::StrAppend(&text, "; expected:");
  for (const pid_t pid : expected) absl::StrAppend(&text, " ", pid);
  Fault(absl::StrCat(text, "; the source was ", stage_.source()));
}

void Judge::JudgeRemains() {
  const std::vector<pid_t> vmms = stage_.Vmms();
  result_.leftovers = harness::FindLeftovers(stage_.host(), stage_.footprint(), vmms,
                                             stage_.inodes(), kLeftoverPatience);
  if (!Soon([&] { return stage_.stored().empty(); })) {
    result_.leftovers.push_back("the service manager keeps " + absl::StrJoin(stage_.stored(), " "));
  }
  if (absl::Status down = stage_.host().ShutDown(); !down.ok()) Fault(down.ToString());
  for (std::string& remains : harness::FindRemains(stage_.host(), stage_.inodes())) {
    result_.leftovers.push_back("after the shutdown: " + remains);
  }
  if (absl::StrContains(stage_.host().VmmLogs(), "the guest is NOT intact")) {
    Fault("a VMM found its guest damaged");
  }
}

// False: the migration did not come to the cell's phase.
bool Attempt(const Cell& cell, int attempt, CellResult& result) {
  Stage stage(cell, attempt);
  absl::Status status = stage.SetUp();
  absl::StatusOr<Reached> reached = Reached::kNothing;
  if (status.ok()) {
    reached = stage.ReachPhase();
    status = reached.status();
  }
  if (status.ok()) {
    const bool struck = *reached == Reached::kPhase;
    const Cell judged = struck ? cell : Unstruck(cell, *reached == Reached::kFirst);
    Judge judge(judged, stage, result);
    status = struck ? judge.Run() : judge.JudgeUnstruck();
  }
  if (!status.ok()) result.faults.push_back(status.ToString());
  if (!result.faults.empty() || !result.leftovers.empty()) result.logs = stage.Logs();
  return !status.ok() || *reached == Reached::kPhase;
}

}  // namespace

CellResult RunCell(const Cell& cell) {
  const auto start = std::chrono::steady_clock::now();
  CellResult result;
  bool reached = false;
  while (!reached && result.faults.empty() && result.leftovers.empty()) {
    if (result.attempts == kMaxAttempts) {
      result.faults.push_back("no migration came to its phase");
      break;
    }
    result.ending.clear();
    reached = Attempt(cell, result.attempts++, result);
  }
  if (!result.faults.empty()) result.outcome = Outcome::kBroken;
  result.took = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - start);
  return result;
}

}  // namespace rehome::chaos
