// SPDX-License-Identifier: Apache-2.0
//
// A guest that neither side can run, and the target that takes it over from the escrow: real
// processes and blocks, scripted agents (effects_world.h).
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "daemon/escrow.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/testing/effects_world.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr char kState[] = "registers and devices";
constexpr uint64_t kAtOnce = 1;  // a deadline that has passed
constexpr uint64_t kBoundNs = 20'000'000'000;

uint64_t Soon() { return rehome_monotonic_ns() + kBoundNs; }

// A VMM of the next attempt.
struct NewTarget {
  WaitingChild child;
  UniqueFd vm{memfd_create("vm", MFD_CLOEXEC)};
  std::shared_ptr<FakeVmmLink> link;
};

class RescueTest : public testing::Test {
 protected:
  ~RescueTest() override {
    if (old_.shared != nullptr) rehome_block_unmap(&old_);
    if (new_.shared != nullptr) rehome_block_unmap(&new_);
  }

  // Both sides armed, the source's state saved, the verdict walked to `verdict`. The record is the
  // one of the step RESCUING.
  void Strand(uint32_t verdict, bool moves = false) {
    // With LINK no mapping of the target is looked at.
    world_.host.capabilities.push_back({.name = "guest_memfd_link", .available = true});
    world_.source->script.describe = [this](const std::string&, bool) { return Vm(world_.vm); };
    world_.spoil_target = [this](VmDescription& vm) {
      vm.layout.slots[0].flags = kMemslotGuestMemfd;
      vm.vm = *Duplicate(first_target_vm_.borrow());
    };
    record_ = world_.Armed(FencePolicy::kAfterResume);
    ASSERT_EQ(record_.strategy, Strategy::kLink);
    if (moves) record_.strategy = Strategy::kLinkMove;
    old_ = world_.MapBlock();
    memcpy(old_.state, kState, sizeof(kState));
    ASSERT_EQ(rehome_block_set_source_ready(&old_, sizeof(kState)), 0);
    EffectsWorld::WalkTo(old_, verdict);
    record_.rescue = {.attempts = 1, .dead_target = record_.target};
    world_.launcher.launch = [this] { return LaunchNext(); };
  }
  VmDescription Vm(const UniqueFd& vm) const {
    VmDescription described = world_.Describe();
    described.layout.slots[0].flags = kMemslotGuestMemfd;
    described.vm = *Duplicate(vm.borrow());
    return described;
  }
  absl::StatusOr<LaunchedVmm> LaunchNext() {
    targets_.push_back(std::make_unique<NewTarget>());
    NewTarget& next = *targets_.back();
    const ProcessIdentity id{.pid = next.child.pid(), .start_ticks = 100 + targets_.size()};
    next.link = std::make_shared<FakeVmmLink>(id, world_.target->hello());
    next.link->set_pidfd(next.child.Pidfd());
    next.link->script.prepare = [this, &next](const VmmLink::PrepareRequest& request) {
      offered_.push_back(Identify(request.source->vm.borrow())->id);
      world_.block_fd = *Duplicate(request.block);
      return prepared_.ok() ? absl::StatusOr<VmDescription>(Vm(next.vm)) : prepared_;
    };
    next.link->script.arm_target = [](const std::string&) { return absl::OkStatus(); };
    world_.target = next.link;
    LaunchedVmm launched;
    launched.pidfd = next.child.Pidfd();
    launched.process = id;
    return launched;
  }
  // Both effects up to where the new target has been armed; `act` is the VMM's part, done when it
  // has been given the state.
  Outcome Rescue(std::function<void(rehome_block&)> act) {
    Outcome built = world_.Perform(Effect::kBuildRescue, record_);
    EXPECT_EQ(built.event, Event::kTargetPrepared) << built.cause.message;
    record_ = built.update;
    MapNew();
    std::thread vmm([&] {
      if (rehome_block_wait_source_ready(&new_, Soon(), 0) == 0) act(new_);
    });
    Outcome outcome = world_.Perform(Effect::kHandOverToRescue, record_);
    vmm.join();
    record_ = outcome.update;
    return outcome;
  }
  void MapNew() {
    if (new_.shared != nullptr) rehome_block_unmap(&new_);
    new_ = world_.MapBlock();
  }
  InodeId Of(const UniqueFd& fd) const { return Identify(fd.borrow())->id; }
  bool Stored(const std::string& name) const {
    return std::any_of(world_.store.stored.begin(), world_.store.stored.end(),
                       [&](const NamedFd& item) { return item.name == name; });
  }

  EffectsWorld world_;
  UniqueFd first_target_vm_{memfd_create("vm", MFD_CLOEXEC)};
  std::vector<std::unique_ptr<NewTarget>> targets_;
  std::vector<InodeId> offered_;                              // VMs that came with PREPARE
  absl::StatusOr<VmDescription> prepared_ = VmDescription{};  // an error: what PREPARE answers
  Migration record_;
  rehome_block old_{}, new_{};
};

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
  escrow.saved = std::move(escrow.block);
  EXPECT_FALSE(escrow.KnowsVerdict(record));
  escrow.block = *HandoverBlock::Create({.migration_id = "m-1",
                                         .state_capacity = 4096,
                                         .claim_timeout = std::chrono::seconds(1),
                                         .resolve_timeout = std::chrono::seconds(1)});
  EXPECT_TRUE(escrow.KnowsVerdict(record));
}

}  // namespace
}  // namespace rehome
