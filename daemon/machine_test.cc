// SPDX-License-Identifier: Apache-2.0
//
// Every promise of the table is checked over all steps, events and stop flags, not over chosen
// examples.
#include "daemon/machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daemon/reasons.h"
#include "daemon/testing/machine_walk.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

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

// Whether a drive ends there.
bool HasEnded(Step step) { return step == Step::kDone || step == Step::kUnresolved; }

// Not an answer of an effect: begins a drive.
bool BeginsADrive(Event event) {
  return event == Event::kDaemonRestarted || event == Event::kResolveRequested;
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

TEST(MachineTest, AnUnresolvedOneIsLeftOnlyWhenADaemonAsksAgain) {
  for (Event event : AllEvents()) {
    const bool asks = event == Event::kResolveRequested || event == Event::kDaemonRestarted;
    const auto transition = Next(Step::kUnresolved, event, false);
    EXPECT_EQ(transition.ok(), asks) << EventName(event);
    if (!transition.ok()) continue;
    EXPECT_EQ(transition->effect, Effect::kRecover);
  }
}

TEST(MachineTest, AnotherDaemonCanGoOnFromEveryStepAndStartsNothingFirst) {
  for (Step step : AllSteps()) {
    const auto transition = Next(step, Event::kDaemonRestarted, false);
    ASSERT_EQ(transition.ok(), step != Step::kDone) << StepName(step);
    if (!transition.ok()) continue;
    // After RUNNING, or with the owner found, the same is done again; else it looks before it acts.
    const bool same = transition->next_step == step;
    EXPECT_TRUE(same || transition->next_step == Step::kRecovering || step == Step::kQueued);
    EXPECT_FALSE(same && step == Step::kRescuing);
  }
}

TEST(MachineTest, NothingHappensAfterDone) {
  for (Event event : AllEvents()) {
    for (bool stop : {false, true}) EXPECT_FALSE(Next(Step::kDone, event, stop).ok());
  }
}

TEST(MachineTest, ATerminalStateHasNoEffectAndEveryOtherHasOne) {
  ForEachEdge([](Step, Event, bool, const Transition& transition) {
    const bool ended = HasEnded(transition.next_step);
    EXPECT_EQ(IsTerminal(transition.next_state), ended);
    EXPECT_EQ(transition.effect == Effect::kNone, ended);
    EXPECT_EQ(transition.next_step == Step::kUnresolved,
              transition.next_state == MigrationState::kIndeterminate);
  });
}

TEST(MachineTest, AStopNeverLeadsNearerToTheBlackout) {
  ForEachEdge([](Step step, Event event, bool stop, const Transition& transition) {
    if (!stop) return;
    const bool before_blackout = step <= Step::kArming;
    if (before_blackout && event != Event::kDaemonRestarted) {
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

// Longest way of one drive from `record` to its end in transitions.
size_t LongestWay(const Migration& record, size_t depth) {
  if (depth > kMaxTransitions) return depth;
  size_t longest = 0;
  for (Event event : AllEvents()) {
    if (BeginsADrive(event)) continue;
    const auto advanced = Advance(record, event, kCause, kNoFailure);
    if (advanced.ok()) longest = std::max(longest, 1 + LongestWay(advanced->record, depth + 1));
  }
  return longest;
}

TEST(MachineTest, EveryDriveEndsWithinTheBound) {
  EXPECT_LE(LongestWay(FreshRecord(), 0), kMaxTransitions);
  for (const Migration& record : ReachableRecords()) {
    for (Event event : {Event::kDaemonRestarted, Event::kResolveRequested}) {
      const auto begun = Advance(record, event, kCause, kNoFailure);
      if (!begun.ok()) continue;
      EXPECT_LE(1 + LongestWay(begun->record, 0), kMaxTransitions);
    }
  }
}

TEST(MachineTest, ARescueIsTriedABoundedNumberOfTimesAndNamesWhomItReplaces) {
  Migration record = After(Then(kToHandingOver, {Event::kStuck}));
  record.target = {50, 51, 52};
  for (uint32_t attempt = 1; attempt <= kMaxRescueAttempts; ++attempt) {
    const Event why = attempt == 1 ? Event::kStranded : Event::kStuck;
    const Failure failure = attempt == 1 ? kCause : Failure{"STUCK", std::to_string(attempt)};
    record = Advance(record, why, failure, kNoFailure)->record;
    ASSERT_EQ(record.step, Step::kRescuing);
    EXPECT_EQ(record.rescue.attempts, attempt);
    EXPECT_EQ(record.rescue.dead_target, record.target);
    EXPECT_EQ(record.rescue.cause, kCause) << "the first, whatever came later";
    EXPECT_EQ(record.rescue.failed_attempts.size(), attempt - 1);
    record.target.pid++;
    record = Advance(record, Event::kTargetPrepared, {}, kCancelStop)->record;
    ASSERT_EQ(record.step, Step::kRescueHandingOver) << "no cancel stops a rescue";
  }
  const Failure last = {"STUCK", "last"};
  const Migration given_up = Advance(record, Event::kStuck, last, kNoFailure)->record;
  EXPECT_EQ(given_up.step, Step::kUnresolved);
  EXPECT_EQ(given_up.rescue.failed_attempts,
            (std::vector<Failure>{{"STUCK", "2"}, {"STUCK", "3"}, last}));
  record = Advance(record, Event::kVerdictRunning, {}, kNoFailure)->record;
  EXPECT_EQ(record.owner, GuestOwner::kTarget);
  EXPECT_TRUE(record.failure.none()) << "a rescued guest is no failure; the rescue is on record";
}

TEST(MachineTest, FromEveryStepItsFailureEventIsLegalAndLeadsToNoSuccess) {
  for (const Migration& record : ReachableRecords()) {
    Migration at = record;
    while (!HasEnded(at.step)) {
      const auto advanced = Advance(at, FailureEvent(at.step), kCause, kNoFailure);
      ASSERT_TRUE(advanced.ok()) << advanced.status();
      at = advanced->record;
    }
    if (!HasEnded(record.step)) {
      EXPECT_NE(at.state, MigrationState::kSucceeded);
    }
  }
}

TEST(MachineTest, NoReachableRecordSaysSucceededWithoutAProofAnOwnerAndACleanSlate) {
  size_t succeeded = 0;
  for (const Migration& record : ReachableRecords()) {
    if (record.state != MigrationState::kSucceeded) continue;
    ++succeeded;
    EXPECT_TRUE(record.fence.complete(record.memory_inodes));
    EXPECT_EQ(record.owner, GuestOwner::kTarget);
    EXPECT_TRUE(record.failure.none()) << record.failure.reason;
  }
  EXPECT_GT(succeeded, 0u);
}

TEST(MachineTest, EveryReachableRecordIsConsistent) {
  for (const Migration& record : ReachableRecords()) {
    SCOPED_TRACE(StepName(record.step));
    EXPECT_EQ(IsTerminal(record.state), HasEnded(record.step));
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
