// SPDX-License-Identifier: Apache-2.0
//
// What a daemon with an escrow may do to a handover that does not end: take the verdict back from a
// committed target, and play a dead source's part for a new target.
#include <errno.h>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

bool TakeBack(Handover* handover) {
  return rehome_block_move_verdict(&handover->block(), REHOME_VERDICT_COMMITTED,
                                   REHOME_VERDICT_ABORTED) == 0;
}

// ---- COMMITTED to ABORTED by the daemon ----

class TakenBack : public testing::TestWithParam<Terms> {};
INSTANTIATE_TEST_SUITE_P(Policies, TakenBack, testing::Values(kMap, kMapFenced), PolicyName);

TEST_P(TakenBack, TheSourceResumesAndTheTargetLeavesWithoutHavingRun) {
  Handover handover(GetParam());
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  ASSERT_TRUE(TakeBack(&handover));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(handover.page().source_runs.load(), 1u);
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_runs.load(), 0u);
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
  EXPECT_EQ(handover.page().source_runs.load(), 1u);
}

TEST_P(TakenBack, AStrandedSourceResumesToo) {
  Terms terms = GetParam();
  terms.resolve_timeout_ns = 20 * kMs;
  Handover handover(terms);
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  // The target may not be killed, so the source cannot help itself.
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_SOURCE), 0);
  ASSERT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  ASSERT_TRUE(TakeBack(&handover));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(handover.page().source_runs.load(), 1u);
}

// It slept so long that it thinks the daemon dead, and was about to fence the source itself.
TEST(TakenBackLate, ATargetThatComesRoundDoesNotKillTheSourceThatHasItsGuestBack) {
  Terms terms = kMapFenced;
  terms.resolve_timeout_ns = 1000 * kMs;
  Handover handover(terms);
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  handover.page().target_stays.store(1);  // only its vCPU thread ends it
  ASSERT_TRUE(TakeBack(&handover));
  ASSERT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  const uint64_t patience_ends = rehome_monotonic_ns() + terms.resolve_timeout_ns / 2;
  EXPECT_EQ(rehome_block_wait_verdict_in(&handover.block(),
                                         REHOME_VERDICT_BIT(REHOME_VERDICT_RUNNING), patience_ends),
            -ETIMEDOUT);
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_runs.load(), 0u);
  std::optional<rehome_probe> probe = handover.source().Probe(kMigration);
  ASSERT_TRUE(probe) << "the source is dead";
  EXPECT_EQ(probe->guest_running, 1u);
}

TEST(TakenBackAfterMove, NobodyRunsTheGuestAndTheSourceSaysSo) {
  Handover handover(kLinkMove);
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  ASSERT_TRUE(TakeBack(&handover));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.owners(), 0u);
  EXPECT_EQ(handover.page().resumes.load(), 0u);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_RELEASE, kMigration), 0u);
  EXPECT_TRUE(handover.AwaitSourceExit());
}

// ---- a new target for a guest whose source has stopped ----

class Rescue : public testing::TestWithParam<Terms> {
 protected:
  // Long after its agent has seen the exit of the source, the target is still there.
  void ExpectWaits(Handover* handover) {
    const uint64_t soon = rehome_monotonic_ns() + 50 * kMs;
    EXPECT_EQ(rehome_block_wait_verdict_in(&handover->block(), REHOME_VERDICTS_FINAL, soon),
              -ETIMEDOUT);
  }
  // The daemon's part: the state of the dead source, copied and announced.
  void AnnounceState(Handover* handover) {
    for (uint64_t i = 0; i < kFakeStateSize; i++) handover->block().state[i] = FakeStateByte(i);
    ASSERT_EQ(rehome_block_set_source_ready(&handover->block(), kFakeStateSize), 0);
  }
};
INSTANTIATE_TEST_SUITE_P(Policies, Rescue, testing::Values(kMap, kMapFenced, kLinkMove),
                         PolicyName);

TEST_P(Rescue, ADeadSourceIsNoReasonToRefuseOnceItIsProvenStopped) {
  Handover handover(GetParam());
  ASSERT_TRUE(handover.Lead(Stage::kPrepared));
  handover.KillSource();
  EXPECT_EQ(handover.target().ArmTarget(kMigration, handover.source_pidfd()),
            REHOME_REFUSED_KERNEL);
  rehome_block_set_fence_proven(&handover.block());
  EXPECT_EQ(handover.target().ArmTarget(kMigration, handover.block_fd()), REHOME_REFUSED_MALFORMED);
  EXPECT_TRUE(handover.ArmTarget());
}

TEST_P(Rescue, TheTargetWaitsForTheStateAndRunsIt) {
  Handover handover(GetParam());
  ASSERT_TRUE(handover.Lead(Stage::kPrepared));
  handover.KillSource();
  rehome_block_set_fence_proven(&handover.block());
  ASSERT_TRUE(handover.ArmTarget());
  ExpectWaits(&handover);
  AnnounceState(&handover);
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_EQ(handover.page().state_intact.load(), 1u);
  EXPECT_EQ(handover.page().target_runs.load(), 1u);
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_RUNNING));
  EXPECT_EQ(rehome_block_fence_state(&handover.block()), REHOME_FENCE_STATE_PROVEN);
}

// Its VM is dead, its process is not, and it dies while the new target waits.
TEST_P(Rescue, ASourceThatDiesLateChangesNothingOnceItIsProvenStopped) {
  Handover handover(GetParam());
  ASSERT_TRUE(handover.Lead(Stage::kPrepared));
  rehome_block_set_fence_proven(&handover.block());
  ASSERT_TRUE(handover.ArmTarget());
  handover.KillSource();
  ExpectWaits(&handover);
  AnnounceState(&handover);
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
}

TEST_P(Rescue, ATargetWhoseDaemonDiesBeforeTheStateIsThereGivesUp) {
  Terms terms = GetParam();
  terms.claim_timeout_ns = 10 * kMs;
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(Stage::kPrepared));
  handover.KillSource();
  rehome_block_set_fence_proven(&handover.block());
  ASSERT_TRUE(handover.ArmTarget());
  handover.CloseLinks();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  EXPECT_EQ(handover.page().target_runs.load(), 0u);
}

}  // namespace
}  // namespace rehome
