// SPDX-License-Identifier: Apache-2.0
#include "daemon/machine.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using enum Step;
using enum Event;
using enum GuestOwner;

// One edge. The public state and the effect follow from the step that it leads to.
struct Edge {
  Step step;
  Event event;
  Step next;
  std::optional<GuestOwner> owner;
  MigrationState terminal = MigrationState::kFailed;  // read only if next is kDone
};

constexpr std::optional<GuestOwner> kUnchanged = std::nullopt;

// The table. A pair that is not listed is illegal. docs/state-machine.md argues for each block.
constexpr Edge kTable[] = {
    // Nobody has been asked for anything yet: nothing to roll back.
    {kQueued, kAdmitted, kPreflight, kSource},
    {kQueued, kRefused, kDone, kSource},
    {kQueued, kInterrupted, kDone, kSource},

    // Whatever goes wrong before the blackout leaves the guest where it is, running. There is the
    // source's hold to end, and perhaps a target to discard.
    {kPreflight, kPreflightPassed, kLaunching, kSource},
    {kPreflight, kRefused, kDiscardingTarget, kSource},
    {kPreflight, kInterrupted, kDiscardingTarget, kSource},
    {kPreflight, kSourceLost, kDiscardingTarget, kNobody},

    {kLaunching, kTargetConnected, kPreparingTarget, kSource},
    {kLaunching, kRefused, kDiscardingTarget, kSource},
    {kLaunching, kInterrupted, kDiscardingTarget, kSource},
    {kLaunching, kSourceLost, kDiscardingTarget, kNobody},

    {kPreparingTarget, kTargetPrepared, kArming, kSource},
    {kPreparingTarget, kRefused, kDiscardingTarget, kSource},
    {kPreparingTarget, kInterrupted, kDiscardingTarget, kSource},
    {kPreparingTarget, kSourceLost, kDiscardingTarget, kNobody},

    {kArming, kArmed, kHandingOver, kUndecided},
    {kArming, kRefused, kDiscardingTarget, kSource},
    {kArming, kInterrupted, kDiscardingTarget, kSource},
    {kArming, kSourceLost, kDiscardingTarget, kNobody},

    // From START on only the verdict knows. All but RUNNING goes through kAborting, the one place
    // that settles who has the guest; also a START that was not sent, which is quickly settled.
    {kHandingOver, kVerdictRunning, kFirstRun, kTarget},
    {kHandingOver, kVerdictAborted, kAborting, kUndecided},
    {kHandingOver, kStuck, kAborting, kUndecided},
    {kHandingOver, kSourceLost, kAborting, kUndecided},
    {kHandingOver, kRefused, kAborting, kUndecided},
    {kHandingOver, kInterrupted, kAborting, kUndecided},
    {kHandingOver, kUnreachable, kAborting, kUndecided},

    {kAborting, kSourceResumed, kDiscardingTarget, kSource},
    {kAborting, kVerdictRunning, kFirstRun, kTarget},  // the target was faster: no failure at all
    {kAborting, kSourceLost, kDiscardingTarget, kNobody},
    {kAborting, kStranded, kRescuing, kUndecided},
    {kAborting, kUnreachable, kUnresolved, kUndecided},

    // After RUNNING what the source has is history: it is fenced whatever became of the target.
    {kFirstRun, kFirstRunSeen, kFencing, kTarget},
    {kFirstRun, kTargetLost, kFencing, kNobody},
    {kFirstRun, kUnreachable, kFencing, kTarget},
    {kFirstRun, kFenceIncomplete, kFencing, kTarget},

    {kFencing, kFenceProven, kDone, kUnchanged, MigrationState::kSucceeded},
    {kFencing, kFenceIncomplete, kDone, kUnchanged},
    {kFencing, kTargetLost, kDone, kNobody},

    {kDiscardingTarget, kTargetDiscarded, kDone, kUnchanged},
    {kDiscardingTarget, kFenceIncomplete, kDone, kUnchanged},

    // A daemon ended and another one goes on. Up to START the guest was not asked to stop; from
    // START to RUNNING only those who were there know; after it the owner is on record, and the
    // same step is done again.
    {kQueued, kDaemonRestarted, kDone, kSource},
    {kPreflight, kDaemonRestarted, kRecovering, kSource},
    {kLaunching, kDaemonRestarted, kRecovering, kSource},
    {kPreparingTarget, kDaemonRestarted, kRecovering, kSource},
    {kArming, kDaemonRestarted, kRecovering, kSource},
    {kHandingOver, kDaemonRestarted, kRecovering, kUndecided},
    {kAborting, kDaemonRestarted, kRecovering, kUndecided},
    {kRescuing, kDaemonRestarted, kRecovering, kUndecided},
    {kRescueHandingOver, kDaemonRestarted, kRecovering, kUndecided},
    {kRecovering, kDaemonRestarted, kRecovering, kUnchanged},
    {kUnresolved, kDaemonRestarted, kRecovering, kUndecided},
    {kFirstRun, kDaemonRestarted, kFirstRun, kTarget},
    {kFencing, kDaemonRestarted, kFencing, kUnchanged},
    {kDiscardingTarget, kDaemonRestarted, kDiscardingTarget, kUnchanged},

    // Settles only what is beyond doubt; the rest is kAborting's.
    {kRecovering, kSourceResumed, kDiscardingTarget, kSource},
    {kRecovering, kSourceLost, kDiscardingTarget, kNobody},
    {kRecovering, kVerdictRunning, kFirstRun, kTarget},
    {kRecovering, kStuck, kAborting, kUndecided},
    {kRecovering, kUnreachable, kUnresolved, kUndecided},
    {kUnresolved, kResolveRequested, kRecovering, kUndecided},

    // The guest is in escrow: its state is saved, and nobody has run it since.
    {kRescuing, kTargetPrepared, kRescueHandingOver, kUndecided},
    {kRescuing, kVerdictRunning, kFirstRun, kTarget},
    {kRescuing, kSourceLost, kDiscardingTarget, kNobody},
    {kRescuing, kUnreachable, kUnresolved, kUndecided},
    {kRescueHandingOver, kVerdictRunning, kFirstRun, kTarget},
    {kRescueHandingOver, kStuck, kRescuing, kUndecided},
    {kRescueHandingOver, kSourceLost, kDiscardingTarget, kNobody},
    {kRescueHandingOver, kUnreachable, kUnresolved, kUndecided},
};

constexpr bool EachPairOnce() {
  for (const Edge& a : kTable) {
    for (const Edge& b : kTable) {
      if (&a != &b && a.step == b.step && a.event == b.event) return false;
    }
  }
  return true;
}
static_assert(EachPairOnce());

const Edge* FindEdge(Step step, Event event) {
  for (const Edge& edge : kTable) {
    if (edge.step == step && edge.event == event) return &edge;
  }
  return nullptr;
}

MigrationState StateOf(const Edge& edge) {
  switch (edge.next) {
    case kQueued:
      return MigrationState::kPending;
    case kPreflight:
    case kLaunching:
    case kPreparingTarget:
    case kArming:
      return MigrationState::kPreparing;
    case kHandingOver:
      return MigrationState::kHandingOver;
    case kFirstRun:
    case kFencing:
      return MigrationState::kCompleting;
    case kAborting:
    case kDiscardingTarget:
    case kRecovering:
    case kRescuing:
    case kRescueHandingOver:
      return MigrationState::kRollingBack;
    case kUnresolved:
      return MigrationState::kIndeterminate;
    case kDone:
      return edge.terminal;
  }
  return edge.terminal;
}

Effect EffectOf(Step step) {
  switch (step) {
    case kQueued:
    case kDone:
    case kUnresolved:
      return Effect::kNone;
    case kPreflight:
      return Effect::kRunPreflight;
    case kLaunching:
      return Effect::kLaunchTarget;
    case kPreparingTarget:
      return Effect::kPrepareTarget;
    case kArming:
      return Effect::kArm;
    case kHandingOver:
      return Effect::kHandOver;
    case kFirstRun:
      return Effect::kAwaitFirstRun;
    case kFencing:
      return Effect::kFenceSource;
    case kAborting:
      return Effect::kAbort;
    case kDiscardingTarget:
      return Effect::kDiscardTarget;
    case kRecovering:
      return Effect::kRecover;
    case kRescuing:
      return Effect::kBuildRescue;
    case kRescueHandingOver:
      return Effect::kHandOverToRescue;
  }
  return Effect::kNone;
}

// What the table is asked for: an event that would lead on towards the blackout becomes
// kInterrupted if somebody wants the migration to stop.
Event Effective(Step step, Event event, bool stop_requested) {
  switch (event) {
    case kTargetPrepared:
      // A rescue is on its way back to a running guest already.
      return stop_requested && step != kRescuing ? kInterrupted : event;
    case kAdmitted:
    case kPreflightPassed:
    case kTargetConnected:
    case kArmed:
      return stop_requested ? kInterrupted : event;
    case kRefused:
    case kInterrupted:
    case kVerdictRunning:
    case kVerdictAborted:
    case kStuck:
    case kFirstRunSeen:
    case kTargetLost:
    case kFenceProven:
    case kFenceIncomplete:
    case kSourceResumed:
    case kSourceLost:
    case kTargetDiscarded:
    case kUnreachable:
    case kDaemonRestarted:
    case kResolveRequested:
    case kStranded:
      return event;
  }
  return event;
}

// Whether the event says that something went wrong, and so has a cause to put on record.
bool IsSetback(Step next, Event event) {
  switch (event) {
    case kDaemonRestarted:
      // A step that is simply done again ends as it would have ended.
      return next == kRecovering || next == kDone;
    case kRefused:
    case kInterrupted:
    case kVerdictAborted:
    case kStuck:
    case kTargetLost:
    case kFenceIncomplete:
    case kSourceLost:
    case kUnreachable:
    case kStranded:
      return true;
    case kResolveRequested:
    case kAdmitted:
    case kPreflightPassed:
    case kTargetConnected:
    case kTargetPrepared:
    case kArmed:
    case kVerdictRunning:
    case kFirstRunSeen:
    case kFenceProven:
    case kSourceResumed:
    case kTargetDiscarded:
      return false;
  }
  return false;
}

// Effects see that they are to stop, not why; the why is `stop`. It explains what ends with the
// guest on the source, never a loss.
Failure CauseOf(const Migration& record, Event event, const Failure& cause, const Failure& stop) {
  const bool gave_up = event == kRefused || event == kVerdictAborted || event == kStuck;
  const bool unexplained = cause.reason == reason::kInterrupted || cause.none();
  if (!stop.none() && (event == kInterrupted || (gave_up && unexplained))) return stop;
  if (!cause.none()) return cause;
  return {std::string(reason::kUnspecified),
          absl::StrCat(EventName(event), " in ", StepName(record.step), " without a cause")};
}

void PutOnRecord(const Failure& cause, Migration* record) {
  const bool replaces = record->failure.none() || record->failure.reason == reason::kCancelled;
  if (replaces) record->failure = cause;
  record->outcome_after_rollback = record->failure.reason == reason::kCancelled
                                       ? MigrationState::kCancelled
                                       : MigrationState::kFailed;
}

// `cause` with what had gone wrong earlier in its message.
Failure Before(Failure cause, const Failure& earlier) {
  if (!earlier.none()) {
    absl::StrAppend(&cause.message, "; earlier: ", earlier.reason, ": ", earlier.message);
  }
  return cause;
}

void NoteRestart(const Migration& record, Migration* next) {
  next->restarts = record.restarts + 1;
  if (record.step != kRecovering) next->interrupted_step = record.step;
}

void NoteRescue(const Migration& record, const Failure& why, Migration* next) {
  if (record.rescue.attempts == 0) next->rescue.cause = why;
  next->rescue.attempts = record.rescue.attempts + 1;
  next->rescue.dead_target = record.target;
}

// Whether a rescue ends for a reason that would be nowhere: the failure on record is its cause.
bool IsGivenUp(Step step, Event event, const Failure& why) {
  const bool rescues = step == kRescuing || step == kRescueHandingOver;
  return rescues && event == kUnreachable && why.reason != reason::kRescueFailed;
}

// The terminal state for an edge that says `by_table`.
absl::StatusOr<MigrationState> Ending(const Migration& record, MigrationState by_table) {
  if (by_table == MigrationState::kFailed) {
    return record.owner == kSource ? record.outcome_after_rollback : MigrationState::kFailed;
  }
  if (!record.failure.none() || record.owner != kTarget) return MigrationState::kFailed;
  if (!record.fence.complete(record.memory_inodes)) {
    return MakeStatus(absl::StatusCode::kInternal, reason::kSuccessWithoutProof,
                      absl::StrCat("migration ", record.id, ": FENCE_PROVEN, but the record has ",
                                   "no complete fence proof"));
  }
  return MigrationState::kSucceeded;
}

}  // namespace

absl::StatusOr<Transition> Next(Step step, Event event, bool stop_requested) {
  // A stop does not make an event legal that is not.
  const Edge* edge = FindEdge(step, event);
  if (edge != nullptr) edge = FindEdge(step, Effective(step, event, stop_requested));
  if (edge == nullptr) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kIllegalTransition,
                      absl::StrCat("step ", StepName(step), " has no edge for ", EventName(event)));
  }
  return Transition{edge->next, StateOf(*edge), edge->owner, EffectOf(edge->next)};
}

absl::StatusOr<Advanced> Advance(const Migration& record, Event event, const Failure& cause,
                                 const Failure& stop) {
  const bool attempt_failed = record.step == kRescueHandingOver && event == kStuck;
  if (attempt_failed && record.rescue.attempts >= kMaxRescueAttempts) event = kUnreachable;
  absl::StatusOr<Transition> transition = Next(record.step, event, !stop.none());
  if (!transition.ok()) return transition.status();

  Migration next = record;
  if (stop.reason == reason::kCancelled) next.cancel_requested = true;
  const Event effective = Effective(record.step, event, !stop.none());
  const Failure why = CauseOf(record, effective, cause, stop);
  if (IsSetback(transition->next_step, effective)) PutOnRecord(why, &next);
  if (effective == kVerdictRunning && record.step != kHandingOver) {
    // What went wrong before did not stop the target: no failure of this migration.
    next.failure = {};
    next.outcome_after_rollback = MigrationState::kFailed;
  }
  if (effective == kDaemonRestarted) NoteRestart(record, &next);
  const bool given_up = IsGivenUp(record.step, effective, why);
  if (attempt_failed || given_up) NoteFailedAttempt(why, &next.rescue);
  if (transition->next_step == kRescuing) NoteRescue(record, why, &next);
  next.step = transition->next_step;
  next.owner = transition->next_owner.value_or(record.owner);
  next.state = transition->next_state;
  next.revision++;
  if (next.step == kDone) {
    absl::StatusOr<MigrationState> ending = Ending(next, transition->next_state);
    if (!ending.ok()) return ending.status();
    next.state = *ending;
  }
  return Advanced{std::move(next), transition->effect};
}

Migration Abandon(const Migration& record, const Failure& cause) {
  Migration ended = record;
  const bool lost = record.owner == kNobody && record.state == MigrationState::kRollingBack;
  if (record.owner == kSource || lost) {
    ended.state = MigrationState::kFailed;
    ended.step = kDone;
    PutOnRecord(cause, &ended);
  } else {
    ended.state = MigrationState::kIndeterminate;
    ended.step = kUnresolved;
    ended.failure = Before(cause, record.failure);
  }
  ended.revision++;
  return ended;
}

Migration CloseAfterReboot(const Migration& record) {
  Migration ended = record;
  const Failure rebooted{std::string(reason::kHostRebooted),
                         absl::StrCat("the host went down in step ", StepName(record.step))};
  ended.failure = Before(rebooted, record.failure);
  ended.state = MigrationState::kFailed;
  ended.owner = kNobody;
  ended.step = kDone;
  ended.revision++;
  return ended;
}

}  // namespace rehome
