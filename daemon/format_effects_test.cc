// SPDX-License-Identifier: Apache-2.0
//
// The state format from preflight to a rescue: chosen once, told to both sides, and refused in
// words that name both.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "daemon/machine.h"
#include "daemon/testing/armed_fixture.h"
#include "daemon/testing/effects_world.h"
#include "daemon/testing/rescue_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// The target of an EffectsWorld reads 1 to 2.
constexpr uint32_t kTargetsNewest = 2;

void Offer(EffectsWorld& world, uint32_t oldest, uint32_t newest) {
  world.source->script.describe = [&world, oldest, newest](const std::string&, bool) {
    VmDescription vm = world.Describe();
    vm.state_format = newest;
    vm.state_format_oldest = oldest;
    return vm;
  };
}

const PreflightCheck& FormatCheck(const Migration& record) {
  static const PreflightCheck kNone;
  for (const PreflightCheck& check : record.preflight) {
    if (check.name == "state_format") return check;
  }
  return kNone;
}

TEST(PreflightFormatTest, TakesTheNewestThatTheProfileLists) {
  EffectsWorld world;
  Offer(world, 1, 3);
  world.launcher.profile.reads_state_formats = {1, 2, 4};
  const Outcome outcome = world.Perform(Effect::kRunPreflight, world.NewRecord());
  EXPECT_EQ(outcome.event, Event::kPreflightPassed) << outcome.cause.message;
  EXPECT_EQ(FormatCheck(outcome.update).detail, "format 2");
}

TEST(PreflightFormatTest, ARefusalNamesBothAndStartsNothing) {
  EffectsWorld world;
  Offer(world, 4, 6);
  world.launcher.profile.reads_state_formats = {1, 2};
  Migration record = world.NewRecord();
  record.request.validate_only = true;
  const Outcome outcome = world.Perform(Effect::kRunPreflight, record);
  EXPECT_EQ(outcome.event, Event::kRefused);
  EXPECT_EQ(outcome.cause.reason, "STATE_FORMAT_UNSUPPORTED");
  EXPECT_EQ(outcome.cause.message,
            "the source VMM test-vmm 1 writes state format 4 to 6 for this guest, the target "
            "profile next reads 1, 2");
}

TEST(PreflightFormatTest, AProfileThatListsNoneIsAskedWhenItRuns) {
  EffectsWorld world;
  Offer(world, 4, 6);
  const Outcome outcome = world.Perform(Effect::kRunPreflight, world.NewRecord());
  EXPECT_EQ(outcome.event, Event::kPreflightPassed);
  EXPECT_EQ(FormatCheck(outcome.update).result, PreflightCheck::Result::kNotApplicable);
  const Outcome launched = world.Perform(Effect::kLaunchTarget, outcome.update);
  EXPECT_EQ(launched.event, Event::kRefused);
  EXPECT_EQ(launched.cause.reason, "STATE_FORMAT_UNSUPPORTED");
  EXPECT_EQ(launched.cause.message,
            "the source VMM test-vmm 1 writes state format 4 to 6 for this guest, the target VMM "
            "test-vmm 1 reads 1 to 2");
}

TEST_F(HandoverTest, BothSidesAreToldTheSameFormat) {
  uint32_t prepared = 0, prepared_oldest = 1, armed = 0;
  const auto prepare = world_.target->script.prepare;
  world_.target->script.prepare = [&](const VmmLink::PrepareRequest& request) {
    prepared = request.source->state_format;
    prepared_oldest = request.source->state_format_oldest;
    return prepare(request);
  };
  world_.source->script.arm_source = [&](const VmmLink::ArmSourceRequest& request) {
    armed = request.state_format;
    return absl::OkStatus();
  };
  Arm(FencePolicy::kAfterResume);  // one format
  EXPECT_EQ(prepared, 1u);
  EXPECT_EQ(armed, 1u);

  world_.source->script.describe = [this](const std::string&, bool) {
    VmDescription vm = world_.Describe();
    vm.layout.slots[0].flags = kMemslotGuestMemfd;
    vm.state_format = kTargetsNewest + 3;
    vm.state_format_oldest = 1;
    return vm;
  };
  (void)world_.Armed(FencePolicy::kAfterResume);
  EXPECT_EQ(prepared, kTargetsNewest);
  EXPECT_EQ(prepared_oldest, 0u) << "the choice has been made";
  EXPECT_EQ(armed, kTargetsNewest);
}

// ---- a device that the target does not have ----

Outcome PrepareRefused(EffectsWorld& world, const std::string& reason, const std::string& text) {
  world.target->script.prepare =
      [=](const VmmLink::PrepareRequest&) -> absl::StatusOr<VmDescription> {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, text);
  };
  Migration record = world.Perform(Effect::kRunPreflight, world.NewRecord()).update;
  record = world.Perform(Effect::kLaunchTarget, record).update;
  return world.Perform(Effect::kPrepareTarget, record);
}

TEST(DeviceUnknownTest, ReachesTheUserWithThatReason) {
  EffectsWorld world;
  const Outcome outcome = PrepareRefused(world, "AGENT_REFUSED_UNSUPPORTED",
                                         "DEVICE_UNKNOWN: this VMM has no device for vsock");
  EXPECT_EQ(outcome.event, Event::kRefused);
  EXPECT_EQ(outcome.cause.reason, "DEVICE_UNKNOWN");
  EXPECT_EQ(
      outcome.cause.message,
      "the target VMM test-vmm 1 lacks a device of VM vm-1: this VMM has no device for vsock");
}

TEST(DeviceUnknownTest, OtherRefusalsKeepTheirs) {
  EffectsWorld world;
  EXPECT_EQ(
      PrepareRefused(world, "AGENT_REFUSED_UNSUPPORTED", "no DEVICE_UNKNOWN: here").cause.reason,
      "AGENT_REFUSED_UNSUPPORTED");
  EXPECT_EQ(PrepareRefused(world, "AGENT_REFUSED_KERNEL", "DEVICE_UNKNOWN: EIO").cause.reason,
            "AGENT_REFUSED_KERNEL");
}

// ---- rescue ----

// The saved state is in the format that the source was told to write for the first target, whatever
// else it could have written.
TEST_F(RescueTest, TheNextTargetMustReadWhatHasBeenWritten) {
  writes_oldest_ = 1;
  writes_newest_ = kTargetsNewest + 3;
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  VmmHello old = world_.target->hello();
  old.state_format_read_max = kTargetsNewest - 1;
  old.vmm_version = "0";
  world_.target = std::make_shared<FakeVmmLink>(world_.target->process(), old);
  const Outcome refused = world_.Perform(Effect::kBuildRescue, record_);
  EXPECT_EQ(refused.event, Event::kUnreachable);
  EXPECT_NE(refused.cause.message.find("the source VMM test-vmm 1 writes state format 2 for this "
                                       "guest, the target VMM test-vmm 0 reads 1"),
            std::string::npos)
      << refused.cause.message;
}

TEST_F(RescueTest, TheNextTargetIsToldTheFormatThatHasBeenWritten) {
  writes_oldest_ = 1;
  writes_newest_ = kTargetsNewest + 3;
  Strand(REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  world_.target_child.Kill();
  VmmHello newer = world_.target->hello();
  newer.state_format_read_max = kTargetsNewest + 3;
  world_.target = std::make_shared<FakeVmmLink>(world_.target->process(), newer);
  const Outcome outcome =
      Rescue([](rehome_block& block) { EffectsWorld::WalkTo(block, REHOME_VERDICT_RUNNING); });
  EXPECT_EQ(outcome.event, Event::kVerdictRunning) << outcome.cause.message;
  EXPECT_EQ(offered_format_, kTargetsNewest);
}

}  // namespace
}  // namespace rehome
