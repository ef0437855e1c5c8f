// SPDX-License-Identifier: Apache-2.0
//
// What Advance(), Abandon() and CloseAfterRestart() put on record.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/testing/machine_walk.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

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

}  // namespace
}  // namespace rehome
