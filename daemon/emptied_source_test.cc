// SPDX-License-Identifier: Apache-2.0
//
// A daemon that comes back and finds a dead target, no handover block, and a source whose VM is
// dead: nobody can run the guest again. It says so, and ends that source, on a full proof and on
// nothing less.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "daemon/abort_effect.h"
#include "daemon/effect_context.h"
#include "daemon/machine.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/testing/effects_world.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

absl::Status Refused(std::string_view reason) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, "as the test has it");
}

// A migration with MOVE that an earlier daemon drove, after its target died.
struct Remains {
  Remains() {
    record = world.NewRecord();
    record.strategy = Strategy::kLinkMove;
    record.state = MigrationState::kRollingBack;
    record.step = Step::kRecovering;
    record.interrupted_step = Step::kHandingOver;
    record.restarts = 1;
    record.owner = GuestOwner::kUndecided;
    record.source = *IdentifyProcess(world.source_child.Pidfd().borrow());
    record.target = *IdentifyProcess(world.target_child.Pidfd().borrow());
    Connect(REHOME_FEATURES_ALL);
    world.target = std::make_shared<FakeVmmLink>(record.target);
    world.target->Close();
  }
  // The source, by an agent with these features.
  void Connect(uint32_t features) {
    VmmHello hello;
    hello.features = features;
    world.source = std::make_shared<FakeVmmLink>(record.source, hello);
    world.source->set_pidfd(world.source_child.Pidfd());
    SetProbe(VmmLink::Probe{.vm_dead = true});
    SetHandIn(Refused(reason::kAgentRefusedWrongMigration));
  }
  void SetProbe(absl::StatusOr<VmmLink::Probe> probe) {
    world.source->script.probe = [probe](const std::string&) { return probe; };
  }
  void SetHandIn(absl::Status status) {
    world.source->script.hand_in = [status](const std::string&) {
      return absl::StatusOr<HandedIn>(status);
    };
  }
  Outcome Recover() { return world.Perform(Effect::kRecover, record); }

  EffectsWorld world;
  Migration record;
};

TEST(EmptiedSourceTest, ALossThatIsProvenIsCalledOneAndNothingIsDoneBeforeItIsOnRecord) {
  Remains remains;
  remains.world.target_child.Kill();
  const Outcome found = remains.Recover();
  EXPECT_EQ(found.event, Event::kSourceLost);
  EXPECT_EQ(found.cause.reason, reason::kGuestLost);
  EXPECT_TRUE(found.update.fence.kernel_vm_dead);
  EXPECT_EQ(found.update.fence.kernel_observer, (Observer{"source", remains.record.source}));
  EXPECT_EQ(found.update.fence.source, remains.record.source);
  EXPECT_TRUE(remains.world.source_child.alive());
  EXPECT_EQ(remains.world.fence.kills, 0);
}

// The record as the journal has it: what the driver makes of what was found.
Migration OnRecord(const Outcome& found) {
  return Advance(found.update, found.event, found.cause, {})->record;
}

TEST(EmptiedSourceTest, TheSourceIsEndedOnceTheLossIsOnRecord) {
  Remains remains;
  remains.world.target_child.Kill();
  const Migration record = OnRecord(remains.Recover());
  ASSERT_EQ(record.step, Step::kDiscardingTarget);
  EXPECT_EQ(record.owner, GuestOwner::kNobody);
  const Outcome ended = remains.world.Perform(Effect::kDiscardTarget, record);
  EXPECT_EQ(ended.event, Event::kTargetDiscarded);
  EXPECT_TRUE(ended.update.fence.process_exited);
  EXPECT_FALSE(remains.world.source_child.alive());
  const Migration last = OnRecord(ended);
  EXPECT_EQ(last.state, MigrationState::kFailed);
  EXPECT_EQ(last.failure.reason, reason::kGuestLost);
}

TEST(EmptiedSourceTest, TheSourceIsAskedToLeaveBeforeItIsKilled) {
  Remains remains;
  remains.world.target_child.Kill();
  const Migration record = OnRecord(remains.Recover());
  remains.world.source->script.release = [&](const std::string&) {
    remains.world.source_child.Kill();
    return absl::OkStatus();
  };
  EXPECT_EQ(remains.world.Perform(Effect::kDiscardTarget, record).event, Event::kTargetDiscarded);
  EXPECT_EQ(remains.world.fence.kills, 1) << "of the dead target, to be sure";
}

// A daemon that ends after it has said so is followed by one that finds the same step.
TEST(EmptiedSourceTest, AnotherDaemonEndsTheSourceThatIsOnRecord) {
  Remains remains;
  remains.world.target_child.Kill();
  Migration record = OnRecord(remains.Recover());
  record = Advance(record, Event::kDaemonRestarted, {}, {})->record;
  ASSERT_EQ(record.step, Step::kDiscardingTarget);
  remains.world.effects = remains.world.factory->Create("m-1");
  EXPECT_EQ(remains.world.Perform(Effect::kDiscardTarget, record).event, Event::kTargetDiscarded);
  EXPECT_FALSE(remains.world.source_child.alive());
}

// Whatever the guest was lost by: only a recovery's proof ends a source.
TEST(EmptiedSourceTest, ALossOfAnotherKindEndsNoSource) {
  Remains remains;
  remains.world.target_child.Kill();
  Migration record = OnRecord(remains.Recover());
  record.fence.source = {};
  EXPECT_EQ(remains.world.Perform(Effect::kDiscardTarget, record).event, Event::kTargetDiscarded);
  EXPECT_TRUE(remains.world.source_child.alive());
}

// ---- anything less ----

struct Missing {
  const char* what;
  std::function<void(Remains&)> spoil;
};

const Missing kMissing[] = {
    {"the target lives", [](Remains&) {}},
    {"no target on record",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.record.target = {};
     }},
    {"records may be missing",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.world.may_miss_records = true;
     }},
    {"the source cannot probe its VM",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetProbe(Refused(reason::kAgentRefusedKernel));
     }},
    {"the source does not answer",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetProbe(absl::DeadlineExceededError("silent"));
     }},
    {"the source's VM is alive",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetProbe(VmmLink::Probe{.vm_alive = true});
     }},
    {"the source runs the guest, it says",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetProbe(VmmLink::Probe{.vm_dead = true, .guest_running = true});
     }},
    {"an old agent's word for the VM",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetProbe(VmmLink::Probe{});
     }},
    {"an old agent's word for what it holds",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.Connect(REHOME_FEATURES_ALL & ~REHOME_FEATURE_EXACT);
     }},
    {"the source cannot hand in",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetHandIn(Refused(reason::kAgentRefusedUnsupported));
     }},
    {"the source fails to hand in",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetHandIn(Refused(reason::kAgentRefusedResources));
     }},
    {"the source does not say what it holds",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.SetHandIn(
           MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kAgentTimeout, "silent"));
     }},
    {"the store had something",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.world.store.stored.push_back({"block", *Duplicate(remains.world.memory.borrow())});
     }},
    {"the store's descriptors could not be told apart",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.world.store.whole = false;
     }},
    {"a strategy without MOVE",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.record.strategy = Strategy::kLink;
     }},
    {"nothing had been started",
     [](Remains& remains) {
       remains.world.target_child.Kill();
       remains.record.interrupted_step = Step::kArming;
     }},
};

TEST(EmptiedSourceTest, WithOnePieceOfTheProofMissingNothingIsConcludedAndNobodyIsEnded) {
  for (const Missing& missing : kMissing) {
    SCOPED_TRACE(missing.what);
    Remains remains;
    missing.spoil(remains);
    const Outcome found = remains.Recover();
    EXPECT_EQ(found.event, Event::kUnreachable);
    EXPECT_EQ(found.cause.reason, "OWNER_UNKNOWN");
    EXPECT_NE(found.update.fence.source, remains.record.source);
    EXPECT_TRUE(remains.world.source_child.alive());
    EXPECT_EQ(remains.world.fence.kills, 0);
  }
}

// ---- what a source is taken for ----

TEST(LookAtSourceTest, ADeadVmIsOneByTheWordOfAnExactAgentThatDoesNotRunTheGuest) {
  const std::pair<absl::StatusOr<VmmLink::Probe>, SourceSight> answers[] = {
      {VmmLink::Probe{.vm_alive = true}, SourceSight::kPaused},
      {VmmLink::Probe{.vm_alive = true, .guest_running = true}, SourceSight::kRunsGuest},
      {VmmLink::Probe{.vm_dead = true}, SourceSight::kVmDead},
      {VmmLink::Probe{}, SourceSight::kVmDeadUnproven},
      {VmmLink::Probe{.vm_dead = true, .guest_running = true}, SourceSight::kSilent},
      {VmmLink::Probe{.guest_running = true}, SourceSight::kSilent},
      {Refused(reason::kAgentRefusedKernel), SourceSight::kSilent},
  };
  Remains remains;
  const EffectDependencies dependencies = remains.world.Dependencies();
  Escrow escrow;
  escrow.source_link = remains.world.source;
  escrow.source_pidfd = remains.world.source_child.Pidfd();
  EffectContext context{dependencies, escrow, *remains.world.interrupt};
  for (const auto& [answer, sight] : answers) {
    remains.SetProbe(answer);
    EXPECT_EQ(LookAtSource(context, remains.record, std::chrono::milliseconds(1)), sight)
        << static_cast<int>(sight);
  }
}

}  // namespace
}  // namespace rehome
