// SPDX-License-Identifier: Apache-2.0
//
// Every promise is checked over all steps, events and stop flags, not over chosen examples.
#include "daemon/machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

const Failure kNoFailure;
const Failure kCause{"SOME_CAUSE", "as the test wants it"};
const Failure kCancelStop{std::string(reason::kCancelled), "cancelled"};
const Failure kDeadlineStop{std::string(reason::kDeadlineExceeded), "too late"};

std::vector<Step> AllSteps() {
  std::vector<Step> steps;
  for (size_t i = 1; i <= kStepCount; ++i) steps.push_back(static_cast<Step>(i));
  return steps;
}

std::vector<Event> AllEvents() {
  std::vector<Event> events;
  for (size_t i = 1; i <= kEventCount; ++i) events.push_back(static_cast<Event>(i));
  return events;
}

// Calls `check` for every edge of the table, with and without a stop.
void ForEachEdge(const std::function<void(Step, Event, bool stop, const Transition&)>& check) {
  size_t edges = 0;
  for (Step step : AllSteps()) {
    for (Event event : AllEvents()) {
      for (bool stop : {false, true}) {
        const auto transition = Next(step, event, stop);
        if (!transition.ok()) continue;
        SCOPED_TRACE(std::string(StepName(step)) + " " + EventName(event) + (stop ? " stop" : ""));
        check(step, event, stop, *transition);
        ++edges;
      }
    }
  }
  EXPECT_GT(edges, 2 * kStepCount);
}

Migration FreshRecord() {
  Migration record;
  record.id = "m-0123456789abcdef";
  record.boot_id = "this-boot";
  record.revision = 1;
  return record;
}

void Prove(Migration* record) {
  record->fence.process_exited = true;
  record->fence.inodes_checked = 1;
}

// The record after `events`, with `kCause` as the cause of each.
Migration After(const std::vector<Event>& events) {
  Migration record = FreshRecord();
  for (Event event : events) {
    const auto advanced = Advance(record, event, kCause, kNoFailure);
    EXPECT_TRUE(advanced.ok()) << advanced.status();
    record = advanced->record;
  }
  return record;
}

const std::vector<Event> kToArming = {Event::kAdmitted, Event::kPreflightPassed,
                                      Event::kTargetConnected, Event::kTargetPrepared};

std::vector<Event> Then(std::vector<Event> events, const std::vector<Event>& more) {
  events.insert(events.end(), more.begin(), more.end());
  return events;
}

const std::vector<Event> kToHandingOver = Then(kToArming, {Event::kArmed});
const std::vector<Event> kToFirstRun = Then(kToHandingOver, {Event::kVerdictRunning});

// Every record that any sequence of events can lead to, each reached once; `stops` are tried at
// every transition, and each record of a fencing step with and without a proof.
std::vector<Migration> ReachableRecords() {
  std::vector<Migration> todo = {FreshRecord()};
  std::vector<Migration> seen;
  while (!todo.empty()) {
    const Migration record = todo.back();
    todo.pop_back();
    if (std::find(seen.begin(), seen.end(), record) != seen.end()) continue;
    seen.push_back(record);
    std::vector<Migration> variants = {record};
    if (record.step == Step::kFencing) {
      variants.push_back(record);
      Prove(&variants.back());
    }
    for (const Migration& variant : variants) {
      for (Event event : AllEvents()) {
        for (const Failure& stop : {kNoFailure, kCancelStop, kDeadlineStop}) {
          const auto advanced = Advance(variant, event, kCause, stop);
          if (advanced.ok()) todo.push_back(advanced->record);
        }
      }
    }
  }
  return seen;
}

TEST(MachineTest, APairThatTheTableDoesNotHaveIsRefusedByNameOfBoth) {
  size_t illegal = 0;
  for (Step step : AllSteps()) {
    for (Event event : AllEvents()) {
      const auto transition = Next(step, event, false);
      if (transition.ok()) continue;
      ++illegal;
      EXPECT_EQ(ReasonOf(transition.status()), reason::kIllegalTransition);
      EXPECT_EQ(transition.status().code(), absl::StatusCode::kFailedPrecondition);
      const std::string message(transition.status().message());
      EXPECT_NE(message.find(StepName(step)), std::string::npos);
      EXPECT_NE(message.find(EventName(event)), std::string::npos);
    }
  }
  EXPECT_GT(illegal, 0u);
}

TEST(MachineTest, NothingHappensAfterDone) {
  for (Event event : AllEvents()) {
    for (bool stop : {false, true}) EXPECT_FALSE(Next(Step::kDone, event, stop).ok());
  }
}

TEST(MachineTest, ATerminalStateHasNoEffectAndEveryOtherHasOne) {
  ForEachEdge([](Step, Event, bool, const Transition& transition) {
    const bool done = transition.next_step == Step::kDone;
    EXPECT_EQ(IsTerminal(transition.next_state), done);
    EXPECT_EQ(transition.effect == Effect::kNone, done);
  });
}

TEST(MachineTest, AStopNeverLeadsNearerToTheBlackout) {
  ForEachEdge([](Step step, Event event, bool stop, const Transition& transition) {
    if (!stop) return;
    const bool before_blackout = step <= Step::kArming;
    if (before_blackout) {
      EXPECT_TRUE(transition.next_step == Step::kDone ||
                  transition.next_step == Step::kDiscardingTarget);
    } else {
      const auto without = Next(step, event, false);
      ASSERT_TRUE(without.ok());
      EXPECT_EQ(without->next_step, transition.next_step) << "what happened wins over a stop";
    }
  });
}

TEST(MachineTest, TheTargetNeverGivesTheGuestBackToTheSource) {
  for (const Migration& record : ReachableRecords()) {
    if (record.owner != GuestOwner::kTarget) continue;
    for (Event event : AllEvents()) {
      const auto transition = Next(record.step, event, false);
      if (!transition.ok()) continue;
      const GuestOwner next = transition->next_owner.value_or(record.owner);
      EXPECT_NE(next, GuestOwner::kSource) << StepName(record.step) << " " << EventName(event);
      EXPECT_NE(next, GuestOwner::kUndecided);
    }
  }
}

TEST(MachineTest, FromEveryStepATerminalOneIsReachable) {
  std::map<Step, std::set<Step>> from;
  ForEachEdge([&](Step step, Event, bool, const Transition& transition) {
    from[transition.next_step].insert(step);
  });
  std::set<Step> reaches = {Step::kDone};
  std::vector<Step> todo = {Step::kDone};
  while (!todo.empty()) {
    const Step step = todo.back();
    todo.pop_back();
    for (Step earlier : from[step]) {
      if (reaches.insert(earlier).second) todo.push_back(earlier);
    }
  }
  EXPECT_EQ(reaches.size(), kStepCount);
}

// Longest way from `step` to kDone in transitions; the recursion ends only without a cycle.
size_t LongestWay(Step step, size_t depth) {
  if (depth > kStepCount) return depth;
  size_t longest = 0;
  for (Event event : AllEvents()) {
    const auto transition = Next(step, event, false);
    if (transition.ok()) {
      longest = std::max(longest, 1 + LongestWay(transition->next_step, depth + 1));
    }
  }
  return longest;
}

TEST(MachineTest, TheTableHasNoCycleSoEveryMigrationEndsWithinTheBound) {
  const size_t longest = LongestWay(Step::kQueued, 0);
  EXPECT_EQ(longest, 9u);
  EXPECT_LE(longest, kMaxTransitions);
}

TEST(MachineTest, FromEveryStepItsFailureEventIsLegalAndLeadsToNoSuccess) {
  for (const Migration& record : ReachableRecords()) {
    Migration at = record;
    while (at.step != Step::kDone) {
      const auto advanced = Advance(at, FailureEvent(at.step), kCause, kNoFailure);
      ASSERT_TRUE(advanced.ok()) << advanced.status();
      at = advanced->record;
    }
    if (record.step != Step::kDone) {
      EXPECT_NE(at.state, MigrationState::kSucceeded);
    }
  }
}

TEST(MachineTest, NoReachableRecordSaysSucceededWithoutAProofAnOwnerAndACleanSlate) {
  size_t succeeded = 0;
  for (const Migration& record : ReachableRecords()) {
    if (record.state != MigrationState::kSucceeded) continue;
    ++succeeded;
    EXPECT_TRUE(record.fence.complete());
    EXPECT_EQ(record.owner, GuestOwner::kTarget);
    EXPECT_TRUE(record.failure.none()) << record.failure.reason;
  }
  EXPECT_GT(succeeded, 0u);
}

TEST(MachineTest, EveryReachableRecordIsConsistent) {
  for (const Migration& record : ReachableRecords()) {
    SCOPED_TRACE(StepName(record.step));
    EXPECT_EQ(IsTerminal(record.state), record.step == Step::kDone);
    if (record.state == MigrationState::kCancelled) {
      EXPECT_EQ(record.owner, GuestOwner::kSource);
      EXPECT_EQ(record.failure.reason, reason::kCancelled);
    }
    if (record.state == MigrationState::kFailed || record.state == MigrationState::kIndeterminate) {
      EXPECT_FALSE(record.failure.none());
      EXPECT_NE(record.owner == GuestOwner::kUndecided, record.state == MigrationState::kFailed);
    }
    if (record.step <= Step::kArming) {
      EXPECT_EQ(record.owner, GuestOwner::kSource);
    }
    if (record.step == Step::kFirstRun) {
      EXPECT_EQ(record.owner, GuestOwner::kTarget);
    }
  }
}

TEST(MachineTest, EveryTransitionRaisesTheRevisionByOne) {
  for (const Migration& record : ReachableRecords()) {
    for (Event event : AllEvents()) {
      const auto advanced = Advance(record, event, kCause, kNoFailure);
      if (!advanced.ok()) continue;
      EXPECT_EQ(advanced->record.revision, record.revision + 1);
    }
  }
}

TEST(AdvanceTest, TheHappyPathSucceedsWithTheTargetAsOwner) {
  Migration record = After(Then(kToFirstRun, {Event::kFirstRunSeen}));
  EXPECT_EQ(record.state, MigrationState::kCompleting);
  Prove(&record);
  const auto done = Advance(record, Event::kFenceProven, {}, {});
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->record.state, MigrationState::kSucceeded);
  EXPECT_EQ(done->record.owner, GuestOwner::kTarget);
  EXPECT_EQ(done->effect, Effect::kNone);
}

TEST(AdvanceTest, SuccessWithoutProofIsAnErrorOfOurs) {
  Migration record = After(Then(kToFirstRun, {Event::kFirstRunSeen}));
  const auto unproven = Advance(record, Event::kFenceProven, {}, {});
  EXPECT_EQ(ReasonOf(unproven.status()), reason::kSuccessWithoutProof);
  EXPECT_EQ(unproven.status().code(), absl::StatusCode::kInternal);
  Prove(&record);
  record.fence.foreign_holders.push_back({7, "somebody", "mapping"});
  EXPECT_FALSE(Advance(record, Event::kFenceProven, {}, {}).ok());
}

TEST(AdvanceTest, TheFirstCauseWins) {
  Migration record = After(kToHandingOver);
  record = Advance(record, Event::kVerdictAborted, {"FIRST", ""}, {})->record;
  record = Advance(record, Event::kSourceLost, {"SECOND", ""}, {})->record;
  record = Advance(record, Event::kTargetDiscarded, {}, {})->record;
  EXPECT_EQ(record.failure.reason, "FIRST");
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.owner, GuestOwner::kNobody);
}

TEST(AdvanceTest, ACancelGivesWayToAFailureThatFollowsIt) {
  Migration record = After(kToHandingOver);
  record = Advance(record, Event::kVerdictAborted, {}, kCancelStop)->record;
  EXPECT_EQ(record.failure.reason, reason::kCancelled);
  record = Advance(record, Event::kSourceLost, {"SOURCE_DIED", ""}, kCancelStop)->record;
  record = Advance(record, Event::kTargetDiscarded, {}, kCancelStop)->record;
  EXPECT_EQ(record.failure.reason, "SOURCE_DIED");
  EXPECT_EQ(record.state, MigrationState::kFailed);
}

TEST(AdvanceTest, ACancelBeforeTheBlackoutEndsCancelledFromEveryStep) {
  for (size_t length = 0; length <= kToHandingOver.size() - 1; ++length) {
    Migration record = After({kToHandingOver.begin(), kToHandingOver.begin() + length});
    SCOPED_TRACE(StepName(record.step));
    record = Advance(record, kToHandingOver[length], {}, kCancelStop)->record;
    if (record.step != Step::kDone) {
      record = Advance(record, Event::kTargetDiscarded, {}, kCancelStop)->record;
    }
    EXPECT_EQ(record.state, MigrationState::kCancelled);
    EXPECT_TRUE(record.cancel_requested);
    EXPECT_EQ(record.owner, GuestOwner::kSource);
  }
}

TEST(AdvanceTest, ADeadlineBeforeTheBlackoutEndsFailedWithItsReason) {
  Migration record = After(kToArming);
  const Failure gave_up{std::string(reason::kInterrupted), "poll"};
  record = Advance(record, Event::kInterrupted, gave_up, kDeadlineStop)->record;
  record = Advance(record, Event::kTargetDiscarded, {}, kDeadlineStop)->record;
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.failure, kDeadlineStop);
  EXPECT_FALSE(record.cancel_requested);
}

TEST(AdvanceTest, WhatTheVerdictSaysOfItselfIsNotTakenForACancel) {
  Migration record = After(kToHandingOver);
  record = Advance(record, Event::kVerdictAborted, {"HANDOVER_TIMEOUT", ""}, kCancelStop)->record;
  EXPECT_EQ(record.failure.reason, "HANDOVER_TIMEOUT");
}

TEST(AdvanceTest, ATargetThatIsFasterThanTheCancelSucceeds) {
  Migration record = After(kToHandingOver);
  record = Advance(record, Event::kStuck, {}, kCancelStop)->record;
  EXPECT_EQ(record.state, MigrationState::kRollingBack);
  record = Advance(record, Event::kVerdictRunning, {}, kCancelStop)->record;
  EXPECT_TRUE(record.failure.none());
  record = Advance(record, Event::kFirstRunSeen, {}, kCancelStop)->record;
  Prove(&record);
  record = Advance(record, Event::kFenceProven, {}, kCancelStop)->record;
  EXPECT_EQ(record.state, MigrationState::kSucceeded);
  EXPECT_TRUE(record.cancel_requested);
}

TEST(AdvanceTest, ATargetLostAfterRunningStillFencesTheSourceAndFails) {
  Migration record = After(kToFirstRun);
  const auto lost = Advance(record, Event::kTargetLost, {"TARGET_LOST", ""}, {});
  EXPECT_EQ(lost->effect, Effect::kFenceSource);
  record = lost->record;
  Prove(&record);
  record = Advance(record, Event::kFenceProven, {}, {})->record;
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.owner, GuestOwner::kNobody);
  EXPECT_EQ(record.failure.reason, "TARGET_LOST");
}

TEST(AdvanceTest, ASilentTargetKeepsTheGuestButIsNoSuccess) {
  Migration record = After(kToFirstRun);
  record = Advance(record, Event::kUnreachable, {"FIRST_RUN_TIMEOUT", ""}, {})->record;
  Prove(&record);
  record = Advance(record, Event::kFenceProven, {}, {})->record;
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.owner, GuestOwner::kTarget);
}

TEST(AdvanceTest, AnIncompleteFenceIsNeverASuccess) {
  Migration record = After(Then(kToFirstRun, {Event::kFirstRunSeen}));
  record = Advance(record, Event::kFenceIncomplete, {"FENCE_TIMEOUT", ""}, {})->record;
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.owner, GuestOwner::kTarget);
  EXPECT_EQ(record.failure.reason, "FENCE_TIMEOUT");
}

TEST(AdvanceTest, ATargetThatWillNotDieTurnsACancelIntoAFailure) {
  Migration record = After(kToArming);
  record = Advance(record, Event::kInterrupted, {}, kCancelStop)->record;
  record = Advance(record, Event::kFenceIncomplete, {"TARGET_STUCK", ""}, kCancelStop)->record;
  EXPECT_EQ(record.state, MigrationState::kFailed);
  EXPECT_EQ(record.owner, GuestOwner::kSource);
  EXPECT_EQ(record.failure.reason, "TARGET_STUCK");
}

TEST(AdvanceTest, ASetbackWithoutACauseSaysWhereItHappened) {
  Migration record = After(kToArming);
  record = Advance(record, Event::kRefused, {}, {})->record;
  EXPECT_EQ(record.failure.reason, reason::kUnspecified);
  EXPECT_NE(record.failure.message.find("ARMING"), std::string::npos);
}

TEST(AdvanceTest, ACauseThatComesWithGoodNewsIsIgnored) {
  Migration record = After(kToArming);
  EXPECT_TRUE(record.failure.none());
}

TEST(RestartTest, WhatHadNotHandedOverFailsWithTheGuestOnTheSource) {
  for (size_t length = 0; length <= kToArming.size(); ++length) {
    const Migration record = After({kToArming.begin(), kToArming.begin() + length});
    const Migration closed = CloseAfterRestart(record, "this-boot");
    EXPECT_EQ(closed.state, MigrationState::kFailed) << StepName(record.step);
    EXPECT_EQ(closed.owner, GuestOwner::kSource);
    EXPECT_EQ(closed.failure.reason, reason::kDaemonRestarted);
    EXPECT_EQ(closed.revision, record.revision + 1);
  }
}

TEST(RestartTest, WhatWasHandingOverIsIndeterminateAndClaimsNoNewOwner) {
  const std::vector<std::vector<Event>> under_way = {
      kToHandingOver, Then(kToHandingOver, {Event::kStuck}), kToFirstRun,
      Then(kToFirstRun, {Event::kFirstRunSeen}), Then(kToFirstRun, {Event::kTargetLost})};
  for (const std::vector<Event>& events : under_way) {
    const Migration record = After(events);
    const Migration closed = CloseAfterRestart(record, "this-boot");
    EXPECT_EQ(closed.state, MigrationState::kIndeterminate) << StepName(record.step);
    EXPECT_EQ(closed.owner, record.owner);
    EXPECT_EQ(closed.failure.reason, reason::kDaemonRestarted);
    if (!record.failure.none()) {
      EXPECT_NE(closed.failure.message.find(record.failure.reason), std::string::npos);
    }
  }
}

TEST(RestartTest, ARollbackThatHadFoundItsOwnerKeepsItsFirstCause) {
  for (Event settled : {Event::kSourceResumed, Event::kSourceLost}) {
    const Migration record = After(Then(kToHandingOver, {Event::kVerdictAborted, settled}));
    const Migration closed = CloseAfterRestart(record, "this-boot");
    EXPECT_EQ(closed.state, MigrationState::kFailed);
    EXPECT_EQ(closed.owner, record.owner);
    EXPECT_EQ(closed.failure, kCause);
  }
}

TEST(RestartTest, AfterARebootNobodyHasTheGuest) {
  for (const Migration& record : ReachableRecords()) {
    if (IsTerminal(record.state)) continue;
    const Migration closed = CloseAfterRestart(record, "another-boot");
    EXPECT_EQ(closed.state, MigrationState::kFailed);
    EXPECT_EQ(closed.owner, GuestOwner::kNobody);
    EXPECT_EQ(closed.failure.reason, reason::kHostRebooted);
    EXPECT_EQ(closed.step, Step::kDone);
  }
}

TEST(MachineTest, EveryEventAndEffectHasANameOfItsOwn) {
  std::set<std::string> events, effects;
  for (Event event : AllEvents()) events.insert(EventName(event));
  for (size_t i = 1; i <= kEffectCount; ++i) effects.insert(EffectName(static_cast<Effect>(i)));
  EXPECT_EQ(events.size(), kEventCount);
  EXPECT_EQ(effects.size(), kEffectCount);
  EXPECT_FALSE(events.contains("?") || effects.contains("?"));
}

}  // namespace
}  // namespace rehome
