// SPDX-License-Identifier: Apache-2.0
//
// One migration, led by a fake daemon: the normal way and every orderly way out of it.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

class EveryPolicy : public testing::TestWithParam<Terms> {};
INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::Values(kMap, kMapFenced, kLinkMove),
                         PolicyName);

// The daemon's part in FENCE_BEFORE_RESUME: kill the source once the target has committed.
void FenceIfAsked(Handover* handover, const Terms& terms) {
  if (terms.fence_policy != REHOME_FENCE_BEFORE_RESUME) return;
  ASSERT_TRUE(handover->WaitForVerdict(REHOME_VERDICT_COMMITTED));
  ASSERT_EQ(rehome_block_condemn(&handover->block(), REHOME_SIDE_SOURCE), 0);
  handover->KillSource();
  rehome_block_set_fence_proven(&handover->block());
}

void ExpectSourceKeepsTheGuest(Handover* handover) {
  EXPECT_TRUE(handover->WaitUntil([&] { return handover->page().source_runs.load() == 1; }));
  EXPECT_EQ(handover->verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  EXPECT_EQ(handover->page().target_runs.load(), 0u);
  EXPECT_EQ(handover->page().ran_twice.load(), 0u);
}

TEST_P(EveryPolicy, HandsTheGuestOverWithItsStateAndFds) {
  Handover handover(GetParam());
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  FenceIfAsked(&handover, GetParam());

  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  std::optional<rehome_register> vm = handover.target().AnswerRegister();
  ASSERT_TRUE(vm);
  EXPECT_STREQ(vm->vm_id, kFakeVmId);
  EXPECT_STREQ(vm->migration_id, kMigration);
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_RUNNING));
  EXPECT_EQ(handover.page().target_runs.load(), 1u);
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
  EXPECT_EQ(handover.page().state_intact.load(), 1u);
  EXPECT_EQ(handover.page().fds_intact.load(), 1u);
  EXPECT_EQ(handover.page().pauses.load(), 1u);
}

TEST_P(EveryPolicy, StampsEveryPhaseInOrder) {
  Handover handover(GetParam());
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  FenceIfAsked(&handover, GetParam());
  ASSERT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(&handover.block(), phases);
  EXPECT_NE(phases[0], 0u);
  for (int i = 1; i < REHOME_PHASE_COUNT; i++) EXPECT_GE(phases[i], phases[i - 1]) << i;
}

TEST(Handover, ReleasesTheSourceThatHandedOver) {
  Handover handover(kMap);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  std::optional<rehome_probe> probe = handover.source().Probe(kMigration);
  ASSERT_TRUE(probe);
  EXPECT_EQ(probe->guest_running, 0u);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_CANCEL, kMigration), REHOME_REFUSED_BUSY);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_RELEASE, kMigration), 0u);
  EXPECT_TRUE(handover.AwaitSourceExit());
  EXPECT_EQ(handover.page().released.load(), 1u);
  EXPECT_EQ(handover.page().resumes.load(), 0u);
}

TEST(Handover, MakesTheTargetAnOwnerThatCanHandOverAgain) {
  Handover handover(kMap);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  ASSERT_TRUE(handover.target().AnswerRegister());
  auto vm = std::make_unique<rehome_vm>();
  EXPECT_EQ(handover.target().Describe("m-2", true, vm.get()), 0u);
  EXPECT_STREQ(vm->vm_id, kFakeVmId);
  EXPECT_EQ(handover.target().Order(REHOME_MSG_CANCEL, "m-2"), 0u);
}

TEST_P(EveryPolicy, ResumesWhenTheTargetRefuses) {
  Handover handover(GetParam());
  handover.page().target_refuses.store(1);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::optional<rehome_event> refusal = handover.target().AwaitEvent(REHOME_EVENT_TAKE_OVER_FAILED);
  ASSERT_TRUE(refusal);
  EXPECT_STREQ(refusal->text, "KVM_SET_SREGS: EINVAL");
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  ExpectSourceKeepsTheGuest(&handover);
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_cancelled.load(), 1u);
}

TEST_P(EveryPolicy, LeavesTheVerdictToARescueWhenTheTargetRefusesAfterTheSourceDied) {
  Handover handover(GetParam());
  handover.page().target_refuses.store(1);
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kClaimed));
  handover.KillSource();
  handover.LetGo();
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_TAKE_OVER_FAILED));
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_cancelled.load(), 1u);
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_CLAIMED))
      << "from ABORTED nobody could tell that the source has not gone on";
}

TEST(Handover, DoesNotResumeADeadVmWhenMoveFailedAfterKillingIt) {
  Handover handover(kLinkMove);
  handover.page().move_kills_and_fails.store(1);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  EXPECT_EQ(handover.page().resumes.load(), 0u);
  std::optional<rehome_probe> probe = handover.source().Probe(kMigration);
  ASSERT_TRUE(probe);
  EXPECT_EQ(probe->vm_alive, 0u);
  EXPECT_EQ(probe->guest_running, 0u);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_RELEASE, kMigration), 0u);
  EXPECT_TRUE(handover.AwaitSourceExit());
}

struct BadPause {
  const char* name;
  std::atomic<uint32_t> VmmPage::*fault;
  const char* text;
};
class PauseFailure : public testing::TestWithParam<BadPause> {};
INSTANTIATE_TEST_SUITE_P(
    Faults, PauseFailure,
    testing::Values(BadPause{"SaveFails", &VmmPage::pause_fails, "KVM_GET_REGS: EIO"},
                    BadPause{"LayoutChanged", &VmmPage::layout_changes,
                             "the memory layout changed since DESCRIBE"},
                    BadPause{"StateTooLarge", &VmmPage::state_too_large,
                             "the state is larger than its area"}),
    [](const testing::TestParamInfo<BadPause>& info) { return info.param.name; });

TEST_P(PauseFailure, ResumesAtOnceAndSaysWhy) {
  Handover handover(kMap);
  (handover.page().*GetParam().fault).store(1);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::optional<rehome_event> resumed = handover.source().AwaitEvent(REHOME_EVENT_RESUMED);
  ASSERT_TRUE(resumed);
  EXPECT_STREQ(resumed->text, GetParam().text);
  EXPECT_STREQ(resumed->migration_id, kMigration);
  ExpectSourceKeepsTheGuest(&handover);
  EXPECT_NE(handover.page().wait_result.load(), 0);
}

TEST_P(EveryPolicy, CancelsBeforeStartWithoutAPause) {
  for (Stage stage :
       {Stage::kDescribed, Stage::kPrepared, Stage::kTargetArmed, Stage::kSourceArmed}) {
    Handover handover(GetParam());
    ASSERT_TRUE(handover.Lead(stage));
    EXPECT_EQ(handover.target().Order(REHOME_MSG_CANCEL, kMigration), 0u);
    EXPECT_TRUE(handover.AwaitTargetExit());
    EXPECT_EQ(handover.source().Order(REHOME_MSG_CANCEL, kMigration), 0u);
    EXPECT_EQ(handover.page().source_cancelled.load(), 1u);
    EXPECT_EQ(handover.page().target_cancelled.load(), 1u);
    EXPECT_EQ(handover.page().pauses.load(), 0u);
    EXPECT_EQ(handover.page().source_runs.load(), 1u);
    // Nothing is left of it: the next migration can begin.
    auto vm = std::make_unique<rehome_vm>();
    EXPECT_EQ(handover.source().Describe("m-2", true, vm.get()), 0u);
  }
}

TEST_P(EveryPolicy, ResumesWhenCancelledBeforeTheClaim) {
  Handover handover(GetParam());
  handover.HangAt(Step::kStateSeen);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kStateSeen));
  EXPECT_EQ(handover.source().Order(REHOME_MSG_CANCEL, kMigration), 0u);
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_NE(handover.page().claim_result.load(), 0);
  ExpectSourceKeepsTheGuest(&handover);
}

TEST_P(EveryPolicy, RefusesACancelAfterTheClaim) {
  Handover handover(GetParam());
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kClaimed));
  EXPECT_EQ(handover.source().Order(REHOME_MSG_CANCEL, kMigration), REHOME_REFUSED_BUSY);
  EXPECT_EQ(handover.target().Order(REHOME_MSG_CANCEL, kMigration), REHOME_REFUSED_BUSY);
  handover.LetGo();
  FenceIfAsked(&handover, GetParam());
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
}

TEST_P(EveryPolicy, ResumesWhenNobodyClaimsBeforeTheDeadline) {
  Terms terms = GetParam();
  terms.claim_timeout_ns = 20 * kMs;
  Handover handover(terms);
  handover.HangAt(Step::kStateSeen);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::optional<rehome_event> resumed = handover.source().AwaitEvent(REHOME_EVENT_RESUMED);
  ASSERT_TRUE(resumed);
  EXPECT_STREQ(resumed->text, "no claim before the deadline");
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  ExpectSourceKeepsTheGuest(&handover);
}

TEST(Handover, AbortsAtTheDeadlineWhenSavingTookTooLong) {
  Handover handover({.claim_timeout_ns = 1 * kMs});
  handover.HangAt(Step::kPause);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kPause));
  uint64_t deadline = rehome_monotonic_ns() + 2 * kMs;
  while (rehome_monotonic_ns() < deadline) continue;
  handover.LetGo();
  std::optional<rehome_event> resumed = handover.source().AwaitEvent(REHOME_EVENT_RESUMED);
  ASSERT_TRUE(resumed);
  EXPECT_STREQ(resumed->text, "saving the state took too long");
}

TEST_P(EveryPolicy, KillsATargetThatHangsInItsClaimAndResumes) {
  Terms terms = GetParam();
  terms.resolve_timeout_ns = 20 * kMs;
  terms.claim_timeout_ns = 20 * kMs;
  Handover handover(terms);
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::optional<rehome_event> resumed = handover.source().AwaitEvent(REHOME_EVENT_RESUMED);
  ASSERT_TRUE(resumed);
  EXPECT_STREQ(resumed->text, "the target did not run the guest in time and was killed");
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(rehome_block_fence_state(&handover.block()), REHOME_FENCE_STATE_TARGET_CONDEMNED);
  ExpectSourceKeepsTheGuest(&handover);
}

TEST(Handover, TakesACommittedGuestBackFromAHungTargetOnlyWithoutMove) {
  Terms terms = kMap;
  terms.resolve_timeout_ns = 20 * kMs;
  Handover taken_back(terms);
  taken_back.HangAt(Step::kCommitted);
  ASSERT_TRUE(taken_back.Lead(Stage::kStarted));
  EXPECT_TRUE(taken_back.source().AwaitEvent(REHOME_EVENT_RESUMED));
  ExpectSourceKeepsTheGuest(&taken_back);

  terms = kLinkMove;
  terms.resolve_timeout_ns = 20 * kMs;
  Handover moved(terms);
  moved.HangAt(Step::kCommitted);
  ASSERT_TRUE(moved.Lead(Stage::kStarted));
  EXPECT_TRUE(moved.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  // The slow target was left alive, and is the guest's only hope.
  moved.LetGo();
  EXPECT_TRUE(moved.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_TRUE(moved.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  EXPECT_EQ(moved.page().resumes.load(), 0u);
}

TEST(Handover, TargetFencesTheSourceItselfWhenTheDaemonDiesThere) {
  Terms terms = kMapFenced;
  terms.resolve_timeout_ns = 200 * kMs;
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitForVerdict(REHOME_VERDICT_COMMITTED));
  handover.CloseLinks();
  EXPECT_TRUE(handover.AwaitSourceExit());
  EXPECT_TRUE(handover.WaitUntil([&] { return handover.page().target_runs.load() == 1; }));
  EXPECT_EQ(rehome_block_fence_state(&handover.block()), REHOME_FENCE_STATE_PROVEN);
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
  EXPECT_EQ(handover.page().resumes.load(), 0u);
}

TEST(Handover, TargetThatCannotFenceLeavesAndTheSourceResumesOnProofOfThat) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: the target becomes another user";
  Terms terms = kMapFenced;
  terms.resolve_timeout_ns = 100 * kMs;
  terms.target_is_nobody = true;
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitForVerdict(REHOME_VERDICT_COMMITTED));
  handover.CloseLinks();
  EXPECT_TRUE(handover.AwaitTargetExit());
  ExpectSourceKeepsTheGuest(&handover);
  EXPECT_EQ(rehome_block_fence_state(&handover.block()), REHOME_FENCE_STATE_TARGET_CONDEMNED);
}

TEST(Handover, TargetThatCannotFenceWaitsForASlowDaemonThatIsAboutTo) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: the target becomes another user";
  Terms terms = kMapFenced;
  terms.resolve_timeout_ns = 20 * kMs;
  terms.target_is_nobody = true;
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitForVerdict(REHOME_VERDICT_COMMITTED));
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_SOURCE), 0);
  // Both deadlines pass; the source says that it may not do anything about it.
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  handover.KillSource();
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
}

TEST_P(EveryPolicy, TargetLeavesWithoutRunningWhenItIsCondemned) {
  Handover handover(GetParam());
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_TARGET), 0);
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_NE(handover.page().run_result.load(), 0);
  if (GetParam().fence_policy == REHOME_FENCE_KERNEL) {
    EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
    EXPECT_EQ(handover.owners(), 0u);
  } else {
    EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
    ExpectSourceKeepsTheGuest(&handover);
  }
}

TEST_P(EveryPolicy, CondemnedTargetLeavesWhenNobodyKillsItAndItsVcpusHang) {
  Handover handover(GetParam());
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kClaimed));
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_TARGET), 0);
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_cancelled.load(), 1u);
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  ExpectSourceKeepsTheGuest(&handover);
}

TEST(Handover, CondemnedTargetDoesNotMove) {
  Handover handover(kLinkMove);
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kClaimed));
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_TARGET), 0);
  handover.LetGo();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().vm_moved.load(), 0u);
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  ExpectSourceKeepsTheGuest(&handover);
}

TEST(Handover, DoesNotKillATargetThatMayNotBeKilled) {
  Terms terms = kMap;
  terms.resolve_timeout_ns = 20 * kMs;
  Handover handover(terms);
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  ASSERT_EQ(rehome_block_condemn(&handover.block(), REHOME_SIDE_SOURCE), 0);
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
  EXPECT_EQ(handover.page().resumes.load(), 0u);
  handover.LetGo();
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
}

TEST(Handover, RefusesAPrepareThatFailsAndLeaves) {
  Handover handover(kMap);
  handover.page().prepare_fails.store(1);
  ASSERT_TRUE(handover.Lead(Stage::kDescribed));
  EXPECT_FALSE(handover.Prepare());
  EXPECT_EQ(handover.target().refusal_text(), "KVM_CREATE_VM: ENOMEM");
  EXPECT_TRUE(handover.AwaitTargetExit());
}

}  // namespace
}  // namespace rehome
