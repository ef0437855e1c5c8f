// SPDX-License-Identifier: Apache-2.0
//
// What Advance(), Abandon() and CloseAfterReboot() put on record.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/testing/machine_walk.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

const Failure kRestarted{std::string(reason::kDaemonRestarted), "rehomed ended"};

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
  record.fence.search.memory.front().foreign = 1;
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

TEST(RestartTest, WhatHadNotHandedOverEndsFailedWithTheGuestOnTheSource) {
  for (size_t length = 0; length <= kToArming.size(); ++length) {
    const Migration record = After({kToArming.begin(), kToArming.begin() + length});
    Migration next = Advance(record, Event::kDaemonRestarted, kRestarted, {})->record;
    if (next.step != Step::kDone) {
      EXPECT_EQ(next.step, Step::kRecovering) << StepName(record.step);
      EXPECT_EQ(next.owner, GuestOwner::kSource);
      next = Advance(next, Event::kSourceResumed, {}, {})->record;
      next = Advance(next, Event::kTargetDiscarded, {}, {})->record;
    }
    EXPECT_EQ(next.state, MigrationState::kFailed) << StepName(record.step);
    EXPECT_EQ(next.owner, GuestOwner::kSource);
    EXPECT_EQ(next.failure, kRestarted);
    EXPECT_EQ(next.interrupted_step, record.step);
    EXPECT_EQ(next.restarts, 1u);
  }
}

TEST(RestartTest, WhatWasHandingOverHasNoOwnerUntilSomebodyIsAsked) {
  for (const auto& events : {kToHandingOver, Then(kToHandingOver, {Event::kStuck}),
                             Then(kToHandingOver, {Event::kStuck, Event::kStranded})}) {
    const Migration record = After(events);
    const auto next = Advance(record, Event::kDaemonRestarted, kRestarted, {});
    EXPECT_EQ(next->record.owner, GuestOwner::kUndecided) << StepName(record.step);
    EXPECT_EQ(next->effect, Effect::kRecover);
  }
}

TEST(RestartTest, WhatThePredecessorHadFoundOutGoesOnAsIfNothingHadHappened) {
  Migration record = After(Then(kToFirstRun, {Event::kFirstRunSeen}));
  record = Advance(record, Event::kDaemonRestarted, kRestarted, {})->record;
  EXPECT_EQ(record.step, Step::kFencing);
  Prove(&record);
  record = Advance(record, Event::kFenceProven, {}, {})->record;
  EXPECT_EQ(record.state, MigrationState::kSucceeded);
  EXPECT_EQ(record.restarts, 1u);
}

TEST(RestartTest, AStepThatIsRecoveredTwiceKeepsWhereItBegan) {
  Migration record = After(kToHandingOver);
  record = Advance(record, Event::kDaemonRestarted, kRestarted, {})->record;
  record = Advance(record, Event::kDaemonRestarted, kRestarted, {})->record;
  EXPECT_EQ(record.step, Step::kRecovering);
  EXPECT_EQ(record.interrupted_step, Step::kHandingOver);
  EXPECT_EQ(record.restarts, 2u);
}

TEST(RestartTest, AnUnresolvedMigrationCanStillSucceed) {
  Migration record = After(Then(kToHandingOver, {Event::kStuck, Event::kUnreachable}));
  EXPECT_EQ(record.state, MigrationState::kIndeterminate);
  record = Advance(record, Event::kResolveRequested, {}, {})->record;
  EXPECT_FALSE(IsTerminal(record.state));
  record = Advance(record, Event::kVerdictRunning, {}, {})->record;
  record = Advance(record, Event::kFirstRunSeen, {}, {})->record;
  Prove(&record);
  record = Advance(record, Event::kFenceProven, {}, {})->record;
  EXPECT_EQ(record.state, MigrationState::kSucceeded);
}

TEST(AbandonTest, AMigrationThatNobodyDrivesClaimsNoMoreThanItsRecordProves) {
  for (const Migration& record : ReachableRecords()) {
    if (IsTerminal(record.state)) continue;
    const Migration ended = Abandon(record, kCause);
    EXPECT_TRUE(IsTerminal(ended.state));
    EXPECT_NE(ended.state, MigrationState::kSucceeded);
    EXPECT_EQ(ended.owner, record.owner);
  }
}

TEST(RestartTest, AfterARebootNobodyHasTheGuest) {
  for (const Migration& record : ReachableRecords()) {
    if (record.step == Step::kDone) continue;
    const Migration closed = CloseAfterReboot(record);
    EXPECT_EQ(closed.state, MigrationState::kFailed);
    EXPECT_EQ(closed.owner, GuestOwner::kNobody);
    EXPECT_EQ(closed.failure.reason, reason::kHostRebooted);
    EXPECT_EQ(closed.step, Step::kDone);
  }
}

}  // namespace
}  // namespace rehome
