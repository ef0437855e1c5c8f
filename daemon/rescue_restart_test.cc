// SPDX-License-Identifier: Apache-2.0
//
// What is kept of a rescue, and what another daemon makes of it.
#include <gtest/gtest.h>

#include <chrono>
#include <utility>

#include "daemon/escrow.h"
#include "daemon/escrow_keeping.h"
#include "daemon/reasons.h"
#include "daemon/testing/rescue_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// ---- what the service manager keeps ----

TEST_F(RescueTest, TheEscrowIsKeptFromArmingOnAndDroppedWithTheMigration) {
  Strand(REHOME_VERDICT_COMMITTED);
  for (const char* name : {"block", "source-vm", "target-vm", "memory-0", "description"}) {
    EXPECT_TRUE(Stored(name)) << name;
  }
  EXPECT_NE(record_.armed_ns, 0u);
  EXPECT_EQ(record_.memory_inodes, std::vector<InodeId>{Of(world_.memory)});
  EXPECT_EQ(world_.Perform(Effect::kDiscardTarget, record_).event, Event::kTargetDiscarded);
  EXPECT_TRUE(world_.store.stored.empty());
}

TEST_F(RescueTest, TheNewBlockIsKeptBeforeTheNewTargetIsArmed) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  (void)world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_TRUE(Stored("rescue-block"));
  EXPECT_TRUE(Stored("rescue-vm-0"));
  EXPECT_TRUE(Stored("block")) << "it has the saved state";
}

// It may have run the guest: then the saved state is history.
TEST_F(RescueTest, ADeadTargetOfARescueWhoseBlockNobodyHasIsNotRescuedFrom) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kStranded);
  ++record_.target.start_ticks;  // the rescue's, which came after the block that is here
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceLost);
}

absl::Status ManagerGone() {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kServiceManagerFailed, "gone");
}

// The block of an earlier attempt would be taken for this target's.
TEST_F(RescueTest, ARescueThatCannotBeKeptGoesOnWithNothingKept) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  ASSERT_TRUE(Stored("block"));
  world_.store.put_status = ManagerGone();
  const Outcome outcome =
      Rescue([](rehome_block& block) { EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning) << outcome.cause.message;
  EXPECT_TRUE(world_.store.stored.empty());
}

TEST_F(RescueTest, ARescueThatCannotBeKeptNorForgottenIsNotBegun) {
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  world_.store.put_status = world_.store.remove_status = ManagerGone();
  const Outcome outcome = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(outcome.event, Event::kUnreachable);
  EXPECT_EQ(outcome.cause.reason, reason::kRescueFailed);
  ASSERT_EQ(targets_.size(), kMaxRescueAttempts);
  for (const auto& target : targets_) EXPECT_FALSE(target->child.alive());
  EXPECT_EQ(outcome.update.target, record_.rescue.dead_target) << "none of them was ever armed";
  EXPECT_TRUE(Stored("block")) << "and the guest is still there";
}

// ---- the daemon ends in the middle ----

class RescueRestartTest : public RescueTest {
 protected:
  // A rescue's target has been armed; then another daemon comes, without anything in a store.
  void Restart(bool moves = false) {
    Strand(REHOME_VERDICT_COMMITTED, moves);
    world_.target_child.Kill();
    record_.source = *IdentifyProcess(world_.source_child.Pidfd().borrow());
    record_ = world_.Perform(Effect::kBuildRescue, record_).update;
    MapNew();
    for (const NamedFd& item : world_.store.stored) {
      if (item.name == "block") old_fd_ = *Duplicate(item.fd.borrow());
    }
    world_.store.stored.clear();
    world_.source = std::make_shared<FakeVmmLink>(record_.source, world_.source->hello());
    world_.source->script.probe = [](const std::string&) {
      return VmmLink::Probe{.vm_dead = true};
    };
    world_.source->script.hand_in = [this](const std::string&) { return HandIn(old_fd_); };
    world_.target->script.hand_in = [this](const std::string&) { return HandIn(world_.block_fd); };
    world_.target->script.probe = [](const std::string&) { return VmmLink::Probe{}; };
    record_.restarts = 1;
    record_.interrupted_step = Step::kRescueHandingOver;
    world_.effects = world_.factory->Create("m-1");
  }
  absl::StatusOr<HandedIn> HandIn(const UniqueFd& block) {
    return HandedIn{.block = *Duplicate(block.borrow()), .vm = Vm(world_.vm)};
  }
  UniqueFd old_fd_;
};

TEST_F(RescueRestartTest, ARescuesTargetThatRanMeanwhileIsBelievedByItsOwnBlock) {
  Restart();
  EffectsWorld::WalkTo(new_, REHOME_VERDICT_RUNNING);
  EXPECT_EQ(world_.Perform(Effect::kRecover, record_).event, Event::kVerdictRunning);
}

TEST_F(RescueRestartTest, ARescuesTargetThatDidNotRunIsLeftToBeSettled) {
  Restart();
  EXPECT_EQ(world_.Perform(Effect::kRecover, record_).event, Event::kStuck);
}

TEST_F(RescueRestartTest, WithoutTheDeadTargetsBlockTheSavedStateIsNotRunAgain) {
  Restart();
  targets_.at(0)->child.Kill();
  world_.target->Close();
  EXPECT_EQ(world_.Perform(Effect::kRecover, record_).event, Event::kUnreachable);
}

// With MOVE its VM is dead, and it hands in the block of its own handover: that is more than
// nothing, and says nothing of the target on record.
TEST_F(RescueRestartTest, ASourceThatHasABlockLeftIsNotEndedForWantOfAnother) {
  Restart(/*moves=*/true);
  targets_.at(0)->child.Kill();
  world_.target->Close();
  EXPECT_EQ(world_.Perform(Effect::kRecover, record_).event, Event::kUnreachable);
  EXPECT_TRUE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

// It lost its daemon before it was told of the state, and made the verdict ABORTED itself. To try
// its VM first would cost an attempt for each restart.
TEST_F(RescueTest, ATargetThatNeverClaimedIsTheLastToBeAskedForTheContext) {
  Strand(REHOME_VERDICT_CLAIMED, /*moves=*/true);
  world_.source_child.Kill();
  world_.target_child.Kill();
  record_ = world_.Perform(Effect::kBuildRescue, record_).update;
  MapNew();
  ASSERT_EQ(rehome_block_move_verdict(&new_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  targets_.at(0)->child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kBuildRescue, record_).event, Event::kTargetPrepared);
  ASSERT_EQ(offered_.size(), 2u);
  EXPECT_EQ(offered_[0], Of(first_target_vm_));
  EXPECT_EQ(offered_[1], Of(first_target_vm_));
}

// ---- nothing but the source is left ----

// A daemon came back without a store: the source has handed in its block and its VM, and the VM
// that the context was moved into is nowhere.
TEST_F(RescueTest, ASourceThatDiesOnceItHasSaidThatItsVmIsDeadIsNotRescuedFrom) {
  Strand(REHOME_VERDICT_CLAIMED, /*moves=*/true);
  world_.target_child.Kill();
  record_.rescue = {};
  record_.source = *IdentifyProcess(world_.source_child.Pidfd().borrow());
  record_.restarts = 1;
  record_.step = Step::kRecovering;
  record_.interrupted_step = Step::kHandingOver;
  world_.store.stored.clear();
  const UniqueFd block = *Duplicate(world_.block_fd.borrow());
  world_.source = std::make_shared<FakeVmmLink>(record_.source);
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_dead = true}; };
  world_.source->script.hand_in = [&](const std::string&) {
    return HandedIn{.block = *Duplicate(block.borrow()), .vm = Vm(world_.vm)};
  };
  world_.effects = world_.factory->Create("m-1");
  const Outcome found = world_.Perform(Effect::kRecover, record_);
  EXPECT_EQ(found.event, Event::kStuck);
  EXPECT_TRUE(found.update.fence.kernel_vm_dead);
  world_.source_child.Kill();
  world_.source->Close();
  EXPECT_EQ(world_.Perform(Effect::kAbort, found.update).event, Event::kSourceLost);
}

TEST_F(RescueTest, WhatAPredecessorKeptOfARescueIsPutInItsPlace) {
  Strand(REHOME_VERDICT_COMMITTED, /*moves=*/true);
  world_.target_child.Kill();
  record_ = world_.Perform(Effect::kBuildRescue, record_).update;
  RestoredEscrow kept{.source = Vm(world_.vm), .target = Vm(first_target_vm_)};
  for (const NamedFd& item : world_.store.stored) {
    if (item.name == "block") kept.block = *Duplicate(item.fd.borrow());
    if (item.name == "rescue-block") kept.rescue_block = *Duplicate(item.fd.borrow());
    if (item.name == "rescue-vm-0") kept.rescue_vms.push_back({*Duplicate(item.fd.borrow()), {}});
  }
  Escrow escrow;
  ASSERT_TRUE(FillEscrow(std::move(kept), record_, escrow).ok());
  EXPECT_TRUE(escrow.KnowsVerdict(record_));
  EXPECT_EQ(escrow.block->verdict(), REHOME_VERDICT_OPEN);
  EXPECT_TRUE(escrow.StateBlock().SourceReady());
  EXPECT_EQ(Of(escrow.target->vm), Of(targets_.at(0)->vm));
  ASSERT_EQ(escrow.context.size(), 2u);
  EXPECT_EQ(Of(escrow.context[0].vm), Of(first_target_vm_));
  EXPECT_FALSE(escrow.context[1].vm.valid()) << "the source's is tried last";
}

TEST(EscrowTest, WithoutTheBlockOfARescuesTargetNobodyKnowsWhetherItRan) {
  Escrow escrow;
  Migration record;
  record.target = {.pid = 10, .start_ticks = 1};
  EXPECT_FALSE(escrow.KnowsVerdict(record));
  escrow.block = *HandoverBlock::Create({.migration_id = "m-1",
                                         .state_capacity = 4096,
                                         .claim_timeout = std::chrono::seconds(1),
                                         .resolve_timeout = std::chrono::seconds(1)});
  EXPECT_TRUE(escrow.KnowsVerdict(record));
  record.rescue = {.attempts = 1, .dead_target = record.target};
  EXPECT_TRUE(escrow.KnowsVerdict(record)) << "the step RESCUING: none has been armed since";
  record.target = {.pid = 11, .start_ticks = 1};
  EXPECT_FALSE(escrow.KnowsVerdict(record));
  escrow.block_is_rescues = true;
  EXPECT_TRUE(escrow.KnowsVerdict(record));
}

}  // namespace
}  // namespace rehome
