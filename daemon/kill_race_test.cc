// SPDX-License-Identifier: Apache-2.0
//
// Between the right to kill somebody and the kill the other side can have acted. The daemon looks
// again there; these tests are there in between.
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <functional>
#include <memory>
#include <utility>

#include "daemon/abort_effect.h"
#include "daemon/escrow.h"
#include "daemon/handover.h"
#include "daemon/handover_effects.h"
#include "daemon/testing/armed_fixture.h"
#include "daemon/testing/effects_world.h"
#include "kvmglue/fd_passing.h"

namespace rehome {
namespace {

constexpr uint64_t kLongAgo = 1;  // CLOCK_MONOTONIC ns: both deadlines have passed

// Lets somebody act once it has answered.
class WatchedBlock : public HandoverBlock {
 public:
  explicit WatchedBlock(UniqueFd fd) : HandoverBlock(std::move(fd)) { EXPECT_EQ(Map(), 0); }

  uint32_t fence() const override {
    const uint32_t word = HandoverBlock::fence();
    if (after_fence) after_fence();
    return word;
  }
  bool MayKill(rehome_side side) override {
    const bool may = HandoverBlock::MayKill(side);
    if (may && after_may_kill) after_may_kill();
    return may;
  }

  std::function<void()> after_fence, after_may_kill;
};

class KillRaceTest : public HandoverTest {
 protected:
  // Both armed, as Arm() leaves them, with an escrow whose block is watched.
  void ArmWatched(FencePolicy policy) {
    Arm(policy);
    escrow_.source_link = world_.source;
    escrow_.target_link = world_.target;
    escrow_.source_pidfd = world_.source_child.Pidfd();
    escrow_.target_pidfd = world_.target_child.Pidfd();
    auto block = std::make_unique<WatchedBlock>(*Duplicate(world_.block_fd.borrow()));
    watched_ = block.get();
    escrow_.block = std::move(block);
    // The source's library: whoever has the guest back says so.
    world_.source->script.probe = [this](const std::string&) {
      const bool resumed = rehome_block_verdict(&block_) == REHOME_VERDICT_ABORTED;
      return VmmLink::Probe{.vm_alive = true, .guest_running = resumed};
    };
  }
  void Move(uint32_t from, uint32_t to) {
    EXPECT_EQ(rehome_block_move_verdict(&block_, from, to), 0);
  }
  Outcome HandOver() { return HandOverEffect(context_, record_); }
  // Of a handover whose deadlines have long passed.
  Outcome Abort() {
    escrow_.handover_start_ns = kLongAgo;
    return AbortEffect(context_, record_);
  }

  Escrow escrow_;
  WatchedBlock* watched_ = nullptr;
  EffectDependencies dependencies_ = world_.Dependencies();
  EffectContext context_{dependencies_, escrow_, *world_.interrupt};
};

// The target has committed and the source is to be killed for it; then the source, which saw its
// target die, has its guest back.
TEST_F(KillRaceTest, FencingSparesASourceThatTookTheGuestBack) {
  ArmWatched(FencePolicy::kBeforeResume);
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED); });
  watched_->after_may_kill = [this] { Move(REHOME_VERDICT_COMMITTED, REHOME_VERDICT_ABORTED); };
  EXPECT_EQ(HandOver().event, Event::kVerdictAborted);
  EXPECT_TRUE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

// Condemned and alive it could not take its guest back, and the target would wait for its end.
TEST_F(KillRaceTest, ASourceThatMayNotBeSignalledIsNotCondemned) {
  ArmWatched(FencePolicy::kBeforeResume);
  // Refuses a signal, and does not look like a process that has exited.
  escrow_.source_pidfd = UniqueFd(eventfd(0, EFD_CLOEXEC));
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED); });
  EXPECT_EQ(HandOver().event, Event::kStuck);
  EXPECT_EQ(rehome_block_fence_state(&block_), REHOME_FENCE_STATE_OPEN);
  EXPECT_EQ(world_.fence.kills, 0);
}

TEST_F(KillRaceTest, FencingSparesTheSourceOfATargetThatDiedMeanwhile) {
  ArmWatched(FencePolicy::kBeforeResume);
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED); });
  watched_->after_may_kill = [this] { world_.target_child.Kill(); };
  EXPECT_EQ(HandOver().event, Event::kStuck);
  EXPECT_TRUE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

// Without a fence word that binds it: a target of today looks there first.
TEST_F(KillRaceTest, ATargetThatRanInTheLastMomentIsNotKilledForHanging) {
  ArmWatched(FencePolicy::kAfterResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
  watched_->after_may_kill = [this] { Move(REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING); };
  EXPECT_EQ(Abort().event, Event::kVerdictRunning);
  EXPECT_TRUE(world_.target_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

// The target condemned the source, hung, and died before it could kill it; the source has its guest
// back when the daemon is about to finish what the target began.
TEST_F(KillRaceTest, FinishingAFenceSparesASourceThatTookTheGuestBack) {
  ArmWatched(FencePolicy::kBeforeResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
  ASSERT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_SOURCE), 0);
  int looks = 0;
  watched_->after_fence = [this, &looks] {
    // The first look was to find out what is to be done.
    if (++looks == 2) Move(REHOME_VERDICT_COMMITTED, REHOME_VERDICT_ABORTED);
  };
  EXPECT_EQ(Abort().event, Event::kSourceResumed);
  EXPECT_GE(looks, 2);
  EXPECT_TRUE(world_.source_child.alive());
}

}  // namespace
}  // namespace rehome
