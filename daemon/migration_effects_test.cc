// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_effects.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "daemon/machine.h"
#include "daemon/process_identity.h"
#include "daemon/testing/armed_fixture.h"
#include "daemon/testing/effects_world.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

std::string ReasonOfCheck(const Migration& record, const std::string& name) {
  for (const PreflightCheck& check : record.preflight) {
    if (check.name == name) return check.reason;
  }
  return "no such check";
}

// ---- brown-out ----

TEST(PreflightTest, ReportsEveryCheckWhetherOrNotOneFails) {
  EffectsWorld good;
  const Outcome passed = good.Perform(Effect::kRunPreflight, good.NewRecord());
  EXPECT_EQ(passed.event, Event::kPreflightPassed);
  EXPECT_EQ(passed.update.strategy, Strategy::kMap);
  EXPECT_EQ(passed.update.fence_policy, FencePolicy::kBeforeResume);
  EXPECT_EQ(passed.update.memory_bytes, 1u << 20);

  EffectsWorld bad;
  Migration record = bad.NewRecord();
  record.request.vm_id = "vm-2";
  record.request.target_profile = "nowhere";
  const Outcome refused = bad.Perform(Effect::kRunPreflight, record);
  EXPECT_EQ(refused.event, Event::kRefused);
  EXPECT_EQ(refused.cause.reason, "VM_NOT_FOUND");
  EXPECT_EQ(ReasonOfCheck(refused.update, "target_profile"), "PROFILE_NOT_FOUND");
  EXPECT_EQ(refused.update.preflight.size(), passed.update.preflight.size());
}

TEST(PreflightTest, RefusesMemoryThatAnotherProcessHolds) {
  EffectsWorld world;
  world.fence.foreign = {{.pid = 1, .command = "backend", .how = "fd"}};
  const Outcome outcome = world.Perform(Effect::kRunPreflight, world.NewRecord());
  EXPECT_EQ(outcome.event, Event::kRefused);
  EXPECT_EQ(outcome.cause.reason, "MEMORY_HELD_BY_OTHERS");
}

TEST(PreflightTest, RefusesASourceThatDescribesAnotherVm) {
  EffectsWorld world;
  world.source->script.describe = [&](const std::string&, bool) {
    VmDescription vm = world.Describe();
    vm.vm_id = "vm-9";
    return vm;
  };
  EXPECT_EQ(world.Perform(Effect::kRunPreflight, world.NewRecord()).cause.reason,
            "AGENT_PROTOCOL_VIOLATION");
}

TEST(PreflightTest, DryRunDoesNotAskTheSourceToHoldAnything) {
  EffectsWorld world;
  bool held = true;
  world.source->script.describe = [&](const std::string&, bool hold) {
    held = hold;
    return world.Describe();
  };
  Migration record = world.NewRecord();
  record.request.validate_only = true;
  EXPECT_EQ(world.Perform(Effect::kRunPreflight, record).event, Event::kPreflightPassed);
  EXPECT_FALSE(held);
}

struct Spoiled {
  const char* reason;
  std::function<void(VmDescription&)> spoil;
};

TEST(PrepareTest, RefusesATargetThatBuiltAnythingElse) {
  const Spoiled cases[] = {
      {"TARGET_MISMATCH", [](VmDescription& vm) { vm.vm_id = "vm-9"; }},
      {"VM_TYPE_MISMATCH", [](VmDescription& vm) { vm.vm_type = VmType::kSev; }},
      {"VCPU_COUNT_MISMATCH", [](VmDescription& vm) { vm.vcpu_count = 2; }},
      {"LAYOUT_MISMATCH", [](VmDescription& vm) { vm.layout.slots[0].gpa += 4096; }},
      {"LAYOUT_MISMATCH", [](VmDescription& vm) { vm.layout.slots[0].inode.inode += 1; }},
      {"LAYOUT_MISMATCH", [](VmDescription& vm) { vm.layout.slots[0].size_bytes -= 4096; }},
      {"LAYOUT_MISMATCH", [](VmDescription& vm) { vm.layout.slots.clear(); }},
      // The same numbers, but its address space maps no such thing.
      {"MAPPING_MISMATCH", [](VmDescription& vm) { vm.layout.slots[0].hva = 0x1000; }},
  };
  for (const Spoiled& spoiled : cases) {
    EffectsWorld world;
    world.spoil_target = spoiled.spoil;
    Migration record = world.Perform(Effect::kRunPreflight, world.NewRecord()).update;
    record = world.Perform(Effect::kLaunchTarget, record).update;
    const Outcome outcome = world.Perform(Effect::kPrepareTarget, record);
    EXPECT_EQ(outcome.event, Event::kRefused);
    EXPECT_EQ(outcome.cause.reason, spoiled.reason);
  }
}

TEST(BrownoutTest, ARefusalIsALossIfTheSourceHasDied) {
  EffectsWorld world;
  world.source->script.describe = [&](const std::string&, bool) -> absl::StatusOr<VmDescription> {
    world.source_child.Kill();
    return MakeStatus(absl::StatusCode::kUnavailable, "AGENT_GONE", "closed");
  };
  const Outcome outcome = world.Perform(Effect::kRunPreflight, world.NewRecord());
  EXPECT_EQ(outcome.event, Event::kSourceLost);
  EXPECT_EQ(outcome.cause.reason, "SOURCE_DIED");
}

TEST(BrownoutTest, AVmThatIsGoneBeforePreflightIsLostIfItsProcessHasDied) {
  EffectsWorld world;
  Migration record = world.NewRecord();
  record.source = *IdentifyProcess(world.source_child.Pidfd().borrow());
  record.request.vm_id = "vm-2";
  EXPECT_EQ(world.Perform(Effect::kRunPreflight, record).event, Event::kRefused) << "it lives";
  world.source_child.Kill();
  const Outcome outcome = world.Perform(Effect::kRunPreflight, record);
  EXPECT_EQ(outcome.event, Event::kSourceLost);
  EXPECT_EQ(outcome.cause.reason, "SOURCE_DIED");
}

TEST(LaunchTest, ALaunchThatFailsRefusesWithItsReason) {
  EffectsWorld world;
  world.launcher.launch = []() -> absl::StatusOr<LaunchedVmm> {
    return MakeStatus(absl::StatusCode::kUnavailable, "LAUNCH_FAILED", "no such file");
  };
  Migration record = world.Perform(Effect::kRunPreflight, world.NewRecord()).update;
  const Outcome outcome = world.Perform(Effect::kLaunchTarget, record);
  EXPECT_EQ(outcome.event, Event::kRefused);
  EXPECT_EQ(outcome.cause.reason, "LAUNCH_FAILED");
}

// ---- blackout ----

TEST_F(HandoverTest, RunningIsSuccessWithoutTouchingTheSource) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kVerdictRunning);
  EXPECT_EQ(world_.fence.kills, 0);
}

TEST_F(HandoverTest, FenceBeforeResumeKillsTheSourceThenSetsTheFenceWord) {
  Arm(FencePolicy::kBeforeResume);
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED); });
  const Outcome outcome = world_.Perform(Effect::kHandOver, record_);
  EXPECT_EQ(outcome.event, Event::kStuck) << "nobody moved the verdict on to RUNNING";
  EXPECT_FALSE(world_.source_child.alive());
  EXPECT_TRUE(outcome.update.fence.stopped_before_resume);
  EXPECT_EQ(outcome.update.fence.stop_observer.role, "rehomed");
  EXPECT_EQ(rehome_block_fence_state(&block_), REHOME_FENCE_STATE_PROVEN);
  EXPECT_EQ(world_.vms.Get("vm-1")->process.pid, world_.target_child.pid()) << "whose it is now";
}

TEST_F(HandoverTest, FromStartOnTheVmIsListedWhoeverIsConnected) {
  Arm(FencePolicy::kAfterResume);
  world_.vms.SetActiveMigration("vm-1", "m-1");
  OnStart([this] {
    world_.vms.Unregister(world_.source.get());
    EXPECT_TRUE(world_.vms.Get("vm-1").ok());
    EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING);
  });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kVerdictRunning);
}

TEST_F(HandoverTest, ASourceWhoseTargetIsDeadIsNotKilled) {
  Arm(FencePolicy::kBeforeResume);
  OnStart([this] {
    EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
    world_.target_child.Kill();
  });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kStuck);
  EXPECT_TRUE(world_.source_child.alive());
}

TEST_F(HandoverTest, ASourceWhoseTargetIsCondemnedIsNotKilled) {
  Arm(FencePolicy::kBeforeResume);
  OnStart([this] {
    EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
    ASSERT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_TARGET), 0);
  });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kStuck);
  EXPECT_TRUE(world_.source_child.alive());
}

TEST_F(HandoverTest, CancelInTimeAbortsAndTooLateDoesNot) {
  Arm(FencePolicy::kAfterResume);
  world_.interrupt->Raise();
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kVerdictAborted);
  EXPECT_EQ(rehome_block_verdict(&block_), REHOME_VERDICT_ABORTED);
}

TEST_F(HandoverTest, CancelAfterTheClaimIsTooLate) {
  Arm(FencePolicy::kAfterResume);
  world_.interrupt->Raise();
  OnStart([this] { EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kVerdictRunning);
}

TEST_F(HandoverTest, ASourceThatDiesWithTheVerdictOpenClosesItForTheTarget) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] { world_.source_child.Kill(); });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kSourceLost);
  EXPECT_EQ(rehome_block_verdict(&block_), REHOME_VERDICT_ABORTED);
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceLost);
}

TEST_F(HandoverTest, AStartThatNobodyTookIsAborted) {
  Arm(FencePolicy::kAfterResume);
  world_.source->script.start = [](const std::string&) {
    return MakeStatus(absl::StatusCode::kDeadlineExceeded, "AGENT_TIMEOUT", "silent");
  };
  const Outcome outcome = world_.Perform(Effect::kHandOver, record_);
  EXPECT_EQ(outcome.event, Event::kVerdictAborted);
  EXPECT_EQ(outcome.cause.reason, "AGENT_TIMEOUT");
}

// It switched itself off while it was being paused; its VMM gives the pause up, and exits later.
TEST_F(HandoverTest, AGuestThatEndedInThePauseIsNobodysThoughItsSourceSaysResumed) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] {
    rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
    world_.source->Send({LinkEvent::Kind::kResumed, "m-1", "the guest has ended"});
    world_.source->Send({LinkEvent::Kind::kGuestStopped, "", "it has switched itself off"});
  });
  const Outcome handed_over = world_.Perform(Effect::kHandOver, record_);
  EXPECT_EQ(handed_over.event, Event::kVerdictAborted);
  EXPECT_EQ(handed_over.cause.reason, "GUEST_ENDED");
  EXPECT_TRUE(world_.source_child.alive());
  const Outcome aborted = world_.Perform(Effect::kAbort, record_);
  EXPECT_EQ(aborted.event, Event::kSourceLost);
  EXPECT_EQ(aborted.cause.reason, "GUEST_ENDED");
  EXPECT_NE(aborted.cause.message.find("it has switched itself off"), std::string::npos);
}

TEST_F(HandoverTest, ASourceThatLeavesBecauseItsGuestEndedIsNoDeadVmm) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] {
    world_.source->Send({LinkEvent::Kind::kGuestStopped, "", "it has switched itself off"});
    world_.source_child.Kill();
  });
  const Outcome outcome = world_.Perform(Effect::kHandOver, record_);
  EXPECT_EQ(outcome.event, Event::kSourceLost);
  EXPECT_EQ(outcome.cause.reason, "GUEST_ENDED");
}

TEST_F(HandoverTest, AbortWaitsForTheSourceToSayThatItRunsTheGuest) {
  Arm(FencePolicy::kAfterResume);
  world_.source->script.probe = [this](const std::string&) {
    const bool resumed = rehome_block_verdict(&block_) == REHOME_VERDICT_ABORTED;
    return VmmLink::Probe{.vm_alive = true, .guest_running = resumed};
  };
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceResumed);
  EXPECT_EQ(rehome_block_verdict(&block_), REHOME_VERDICT_ABORTED);
}

TEST_F(HandoverTest, AClaimantThatOutlivesItsDeadlinesIsKilledSoThatTheSourceCanDecide) {
  Arm(FencePolicy::kAfterResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_CLAIMED);
  // The source's library: once the target is dead and its own VM alive, it aborts and resumes.
  std::thread source_library([this] {
    (void)AwaitExit(world_.target_child.Pidfd().borrow(), std::chrono::seconds(20));
    rehome_block_move_verdict(&block_, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
    world_.source->Send({LinkEvent::Kind::kResumed, "m-1", ""});
  });
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceResumed);
  source_library.join();
  EXPECT_FALSE(world_.target_child.alive());
  EXPECT_TRUE(world_.source_child.alive());
}

TEST_F(HandoverTest, ASourceThatGaveUpBecauseADeviceIsBusyIsNamedSo) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] {
    rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
    world_.source->Send({LinkEvent::Kind::kResumed, "m-1", "DEVICE_BUSY: not after 100 ms"});
  });
  const Outcome given_up = world_.Perform(Effect::kHandOver, record_);
  EXPECT_EQ(given_up.event, Event::kVerdictAborted);
  EXPECT_EQ(given_up.cause.reason, "DEVICE_BUSY");
  EXPECT_EQ(given_up.cause.message, "a device of VM vm-1 is busy: not after 100 ms");
  // The event that said so has been taken, and still says who has the guest.
  EXPECT_EQ(world_.Perform(Effect::kAbort, given_up.update).event, Event::kSourceResumed);
}

TEST_F(HandoverTest, ASourceThatGaveUpOtherwiseIsAnAbort) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] {
    rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
    world_.source->Send({LinkEvent::Kind::kResumed, "m-1", "saving the state took too long"});
  });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).cause.reason, "HANDOVER_ABORTED");
}

TEST_F(HandoverTest, ATargetThatWasFasterThanTheAbortWins) {
  Arm(FencePolicy::kAfterResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING);
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kVerdictRunning);
}

TEST_F(HandoverTest, BothDeadBeforeRunningIsAnHonestLoss) {
  Arm(FencePolicy::kAfterResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  const Outcome outcome = world_.Perform(Effect::kAbort, record_);
  EXPECT_EQ(outcome.event, Event::kSourceLost);
  EXPECT_EQ(outcome.cause.reason, "GUEST_LOST");
}

// With MOVE: the source's VM died when the target took the context, and the target died with it.
TEST_F(HandoverTest, AnEmptySourceIsEndedSoThatTheLossIsProven) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_CLAIMED);
  world_.target_child.Kill();
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_dead = true}; };
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceLost);
  EXPECT_FALSE(world_.source_child.alive());
}

// It says that its VM is dead after any failure of the probe: here there was none but that.
TEST_F(HandoverTest, AnOldAgentThatSaysItsVmIsDeadIsNotEndedForIt) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_CLAIMED);
  world_.target_child.Kill();
  int looks = 3;
  world_.source->script.probe = [this, looks](const std::string&) mutable {
    if (looks-- > 0) return VmmLink::Probe{};
    rehome_block_move_verdict(&block_, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
    return VmmLink::Probe{.vm_alive = true, .guest_running = true};
  };
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceResumed);
  EXPECT_TRUE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

TEST_F(HandoverTest, ASourceWithALivingVmIsNeverEndedByAnAbort) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_CLAIMED);
  world_.target_child.Kill();
  world_.source->script.probe = [this](const std::string&) {
    // Its library sees the target's death now.
    rehome_block_move_verdict(&block_, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
    world_.source->Send({LinkEvent::Kind::kResumed, "m-1", ""});
    return VmmLink::Probe{.vm_alive = true};
  };
  EXPECT_EQ(world_.Perform(Effect::kAbort, record_).event, Event::kSourceResumed);
  EXPECT_TRUE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.kills, 0);
}

TEST_F(HandoverTest, AScribbledVerdictIsNeverASuccess) {
  Arm(FencePolicy::kAfterResume);
  OnStart([this] { block_.shared->verdict_word = 77; });
  EXPECT_EQ(world_.Perform(Effect::kHandOver, record_).event, Event::kStuck);
  const Outcome outcome = world_.Perform(Effect::kAbort, record_);
  EXPECT_NE(outcome.event, Event::kVerdictRunning);
  EXPECT_FALSE(world_.target_child.alive());
}

}  // namespace
}  // namespace rehome
