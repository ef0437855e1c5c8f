// SPDX-License-Identifier: Apache-2.0
//
// A guest that neither side can run, and the target that takes it over from the escrow: real
// processes and blocks, scripted agents (effects_world.h).
#include <gtest/gtest.h>

#include <string>

#include "daemon/reasons.h"
#include "daemon/testing/rescue_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

TEST_F(RescueTest, ANewTargetGetsTheStateOfTheDeadSourceAndRunsTheGuest) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  std::string got;
  const Outcome outcome = Rescue([&](rehome_block& block) {
    got.assign(reinterpret_cast<const char*>(block.state), rehome_block_state_size(&block) - 1);
    EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING);
  });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning) << outcome.cause.message;
  EXPECT_EQ(got, kState);
  EXPECT_EQ(record_.target, targets_.at(0)->link->process());
  EXPECT_EQ(rehome_block_verdict(&old_), REHOME_VERDICT_ABORTED) << "nobody goes on from there";
  EXPECT_TRUE(targets_.at(0)->child.alive());
}

TEST_F(RescueTest, TheTargetIsToldThatTheSourceIsDeadBeforeItIsArmed) {
  Strand(REHOME_VERDICT_CLAIMED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  record_ = world_.Perform(Effect::kBuildRescue, record_).update;
  MapNew();
  uint32_t fence = 0;
  bool had_state = true;
  targets_.at(0)->link->script.arm_target = [&](const std::string&) {
    fence = rehome_block_fence_state(&new_);
    had_state = rehome_block_wait_source_ready(&new_, kAtOnce, 0) == 0;
    return absl::OkStatus();
  };
  (void)world_.Perform(Effect::kHandOverToRescue, record_);
  EXPECT_EQ(fence, REHOME_FENCE_STATE_PROVEN);
  EXPECT_FALSE(had_state) << "an unarmed target may not claim";
}

TEST_F(RescueTest, ATargetThatRanAfterAllIsNotReplaced) {
  Strand(REHOME_VERDICT_RUNNING);
  world_.source_child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kVerdictRunning);
  EXPECT_TRUE(targets_.empty());
  EXPECT_TRUE(world_.target_child.alive());
}

TEST_F(RescueTest, AHangingTargetLosesTheVerdictAndIsProvenDeadBeforeAnotherStarts) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  bool old_was_out = false;
  world_.launcher.launch = [&] {
    old_was_out =
        !world_.target_child.alive() && rehome_block_verdict(&old_) == REHOME_VERDICT_ABORTED;
    return LaunchNext();
  };
  EXPECT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
  EXPECT_TRUE(old_was_out);
}

TEST_F(RescueTest, AScribbledVerdictIsNothingToGoOnFrom) {
  Strand(REHOME_VERDICT_COMMITTED);
  old_.shared->verdict_word = 77;
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(outcome.event, Event::kUnreachable);
  EXPECT_EQ(outcome.cause.reason, reason::kVerdictCorrupt);
  EXPECT_TRUE(targets_.empty());
}

TEST_F(RescueTest, WithoutASavedStateTheGuestIsLost) {
  Strand(REHOME_VERDICT_OPEN);
  old_.shared->source_ready_word = REHOME_SOURCE_NOT_READY;
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(outcome.event, Event::kSourceLost);
  EXPECT_TRUE(targets_.empty());
}

TEST_F(RescueTest, NoCancelStopsARescue) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  world_.interrupt->Raise();
  const Outcome outcome =
      Rescue([](rehome_block& block) { EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning);
}

// ---- which VM has the context ----

TEST_F(RescueTest, AfterCommittedTheContextIsInTheDeadTargetsVm) {
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.target_child.Kill();
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 1u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_TRUE(outcome.update.rescue.context_from_target);
}

// MOVE compares bindings, and a binding ends with its file. A daemon that dies from here on takes
// its own descriptors along.
TEST_F(RescueTest, TheMemoryComesByTheFilesThatTheContextIsBoundTo) {
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.target_child.Kill();
  ASSERT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
  EXPECT_NE(offered_flags_ & kFlagOfFirstTargets, 0);
}

// Of what a store gave back some may be missing. The context is still its VM's.
TEST_F(RescueTest, WhereAFileOfThatVmIsMissingTheSourcesAreAsGoodAsItGets) {
  first_target_lacks_its_file_ = true;
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.target_child.Kill();
  ASSERT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
  ASSERT_EQ(offered_.size(), 1u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_EQ(offered_memory_, (std::vector<InodeId>{Of(world_.memory)}));
  EXPECT_EQ(offered_flags_ & kFlagOfFirstTargets, 0);
}

TEST_F(RescueTest, WhereTheContextIsTheSourcesSoAreTheFiles) {
  Strand(REHOME_VERDICT_OPEN, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  ASSERT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
  EXPECT_EQ(offered_flags_ & kFlagOfFirstTargets, 0);
}

TEST_F(RescueTest, ATargetThatNeverClaimedHasNoContext) {
  Strand(REHOME_VERDICT_OPEN, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 1u);
  EXPECT_EQ(offered_[0], Of(world_.vm));
  EXPECT_FALSE(outcome.update.rescue.context_from_target);
}

TEST_F(RescueTest, WhereTheContextIsInDoubtTheSecondVmIsTriedWhenTheFirstIsRefused) {
  Strand(REHOME_VERDICT_CLAIMED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome refused = Rescue([](rehome_block& block) {
    EffectsWorld::WalkTo(block, REHOME_VERDICT_CLAIMED);
    rehome_block_stamp(&block, REHOME_PHASE_CLAIMED);
    rehome_block_move_verdict(&block, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
  });
  EXPECT_EQ(refused.event, Event::kStuck);
  EXPECT_EQ(refused.cause.reason, reason::kTakeOverFailed);
  EXPECT_FALSE(targets_.at(0)->child.alive()) << "nothing of it is left";
  (void)world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 2u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_EQ(offered_[1], Of(world_.vm));
}

// Without a source a target that refuses leaves the verdict CLAIMED and exits.
TEST_F(RescueTest, ATargetThatSaidThatItRefusesAndExitedHasNoContext) {
  Strand(REHOME_VERDICT_CLAIMED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome refused = Rescue([this](rehome_block& block) {
    EffectsWorld::WalkTo(block, REHOME_VERDICT_CLAIMED);
    rehome_block_stamp(&block, REHOME_PHASE_CLAIMED);
    targets_.at(0)->link->Send({LinkEvent::Kind::kTakeOverFailed, "m-1", "MOVE: EINVAL"});
    targets_.at(0)->child.Kill();
  });
  EXPECT_EQ(refused.event, Event::kStuck);
  EXPECT_EQ(refused.cause.reason, reason::kTakeOverFailed);
  EXPECT_NE(refused.cause.message.find("MOVE: EINVAL"), std::string::npos);
  (void)world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 2u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_EQ(offered_[1], Of(world_.vm)) << "neither the VM that was refused nor the refuser's";
}

// A MOVE can fail and have moved all the same.
TEST_F(RescueTest, OfATargetWhoseMoveFailedTheVmIsTriedAndThenTheOneThatItFailedOn) {
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  for (size_t attempt = 0; attempt < 2; ++attempt) {
    const Outcome failed = Rescue([&](rehome_block& block) {
      EffectsWorld::WalkTo(block, REHOME_VERDICT_CLAIMED);
      targets_.at(attempt)->link->Send({LinkEvent::Kind::kTakeOverFailed, "m-1", "MOVE: EIO"});
      targets_.at(attempt)->child.Kill();
    });
    EXPECT_EQ(failed.event, Event::kStuck);
  }
  (void)world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 3u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_EQ(offered_[1], Of(targets_.at(0)->vm));
  EXPECT_EQ(offered_[2], Of(first_target_vm_));
}

TEST_F(RescueTest, ATargetThatFailedAfterItsCommitmentHasTheContextWhateverItSays) {
  Strand(REHOME_VERDICT_CLAIMED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome failed = Rescue([this](rehome_block& block) {
    EffectsWorld::WalkTo(block, REHOME_VERDICT_COMMITTED);
    rehome_block_stamp(&block, REHOME_PHASE_CLAIMED);
    targets_.at(0)->link->Send({LinkEvent::Kind::kTakeOverFailed, "m-1", "KVM_SET_SREGS: EINVAL"});
    targets_.at(0)->child.Kill();
  });
  EXPECT_EQ(failed.event, Event::kStuck);
  (void)world_.Perform(Effect::kBuildRescue, record_);
  ASSERT_EQ(offered_.size(), 2u);
  EXPECT_EQ(offered_[1], Of(targets_.at(0)->vm));
}

TEST_F(RescueTest, ARescuesTargetThatDiesAfterMoveIsTheNextOnesSource) {
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome died = Rescue([this](rehome_block& block) {
    EffectsWorld::WalkTo(block, REHOME_VERDICT_COMMITTED);
    targets_.at(0)->child.Kill();
  });
  EXPECT_EQ(died.event, Event::kStuck);
  EXPECT_EQ(died.cause.reason, reason::kTargetDied);
  const Outcome outcome =
      Rescue([](rehome_block& block) { EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning) << "the first block still has the state";
  ASSERT_EQ(offered_.size(), 2u);
  EXPECT_EQ(offered_[1], Of(targets_.at(0)->vm));
}

// ---- what goes wrong with a rescue ----

TEST_F(RescueTest, ARescuesTargetThatNeverClaimsIsEnded) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome outcome = Rescue([](rehome_block&) {});
  EXPECT_EQ(outcome.event, Event::kStuck);
  EXPECT_EQ(outcome.cause.reason, reason::kHandoverStuck);
  EXPECT_EQ(rehome_block_verdict(&new_), REHOME_VERDICT_ABORTED);
  EXPECT_FALSE(targets_.at(0)->child.alive());
}

TEST_F(RescueTest, AProfileThatStartsNothingIsTriedABoundedNumberOfTimesAndTheEscrowStays) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  size_t launches = 0;
  world_.launcher.launch = [&]() -> absl::StatusOr<LaunchedVmm> {
    ++launches;
    return MakeStatus(absl::StatusCode::kUnavailable, "LAUNCH_FAILED", "no such file");
  };
  const Outcome failed = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(failed.event, Event::kUnreachable);
  EXPECT_EQ(failed.cause.reason, reason::kRescueFailed);
  EXPECT_EQ(launches, kMaxRescueAttempts);
  EXPECT_EQ(failed.update.target, record_.rescue.dead_target);
  EXPECT_EQ(failed.update.rescue.failed_attempts.size(), kMaxRescueAttempts);
  EXPECT_EQ(failed.update.rescue.failed_attempts.front().reason, "LAUNCH_FAILED");
  EXPECT_TRUE(Stored("memory-0"));

  // Somebody mends the profile and resolves.
  world_.launcher.launch = [this] { return LaunchNext(); };
  record_ = failed.update;
  ++record_.rescue.attempts;
  const Outcome outcome =
      Rescue([](rehome_block& block) { EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning);
}

TEST_F(RescueTest, ATargetThatCannotBuildTheVmIsEndedAndReplaced) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  prepared_ = MakeStatus(absl::StatusCode::kFailedPrecondition, "AGENT_REFUSED_KERNEL", "no");
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(outcome.event, Event::kUnreachable);
  ASSERT_EQ(targets_.size(), kMaxRescueAttempts);
  for (const auto& target : targets_) EXPECT_FALSE(target->child.alive());
}

TEST_F(RescueTest, EachAttemptHasTwiceTheTimeOfTheOneBefore) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  uint64_t expected = old_.claim_timeout_ns;
  for (uint32_t attempt = 1; attempt <= kMaxRescueAttempts + 1; ++attempt) {
    record_.rescue.attempts = attempt;
    ASSERT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
    MapNew();
    if (attempt <= kMaxRescueAttempts) expected *= 2;
    EXPECT_EQ(new_.claim_timeout_ns, expected) << attempt;
  }
}

TEST_F(RescueTest, ACancelSparesTheSavedStateOfADeadSource) {
  Strand(REHOME_VERDICT_OPEN);
  world_.source->script.start = [](const std::string&) { return absl::OkStatus(); };
  world_.source_child.Kill();
  ASSERT_TRUE(AwaitExit(world_.source_child.Pidfd().borrow(), std::chrono::seconds(20)));
  world_.interrupt->Raise();
  // The target may still claim it, and else a rescue's may.
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kStuck);
  EXPECT_EQ(rehome_block_verdict(&old_), REHOME_VERDICT_OPEN);
}

}  // namespace
}  // namespace rehome
