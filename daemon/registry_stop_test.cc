// SPDX-License-Identifier: Apache-2.0
//
// Cancel, deadline, queue and the end of the daemon.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/registry.h"
#include "daemon/testing/registry_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

struct CancelCase {
  Effect held;
  bool allowed;
  MigrationState end;
};

class CancelTest : public RegistryTest, public testing::WithParamInterface<CancelCase> {};

TEST_P(CancelTest, InEveryStepEndsAsTheContractSays) {
  const CancelCase& param = GetParam();
  effects_.HoldAt(param.held, /*interruptible=*/param.end == MigrationState::kCancelled);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(param.held);
  const auto cancelled = registry_->Cancel(id);
  if (param.allowed) {
    ASSERT_TRUE(cancelled.ok()) << cancelled.status();
    EXPECT_TRUE(cancelled->cancel_requested);
    EXPECT_TRUE(registry_->Get(id)->cancel_requested);
  } else {
    EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(cancelled.status()), reason::kPastCommit);
  }
  effects_.Release(param.held);
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, param.end);
  EXPECT_EQ(done.cancel_requested, param.allowed);
  if (param.end == MigrationState::kCancelled) {
    EXPECT_EQ(done.owner, GuestOwner::kSource);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Effects, CancelTest,
    testing::Values(CancelCase{Effect::kRunPreflight, true, MigrationState::kCancelled},
                    CancelCase{Effect::kLaunchTarget, true, MigrationState::kCancelled},
                    CancelCase{Effect::kPrepareTarget, true, MigrationState::kCancelled},
                    CancelCase{Effect::kArm, true, MigrationState::kCancelled},
                    CancelCase{Effect::kHandOver, true, MigrationState::kCancelled},
                    CancelCase{Effect::kAwaitFirstRun, false, MigrationState::kSucceeded},
                    CancelCase{Effect::kFenceSource, false, MigrationState::kSucceeded}),
    [](const auto& info) { return EffectName(info.param.held); });

// The journal is where the driver is between its decision and the publication of it.
TEST_F(RegistryTest, ACancelDuringATransitionIsNotForgottenByThatTransition) {
  effects_.HoldAt(Effect::kLaunchTarget, /*interruptible=*/false);
  journal_.FailAppends([&](const Migration& record) {
    if (record.step == Step::kLaunching) {
      EXPECT_TRUE(registry_->Cancel(record.id).ok());
    }
    return absl::OkStatus();
  });
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kLaunchTarget);
  EXPECT_TRUE(registry_->Get(id)->cancel_requested);
  effects_.Release(Effect::kLaunchTarget);
  EXPECT_EQ(AwaitEnd(id).state, MigrationState::kCancelled);
}

TEST_F(RegistryTest, ACancelThatTheTargetOutranSucceeds) {
  effects_.HoldAt(Effect::kHandOver);
  effects_.On(Effect::kHandOver, [](const Migration& record, ::rehome::Interrupt&) {
    return HappyOutcome(Effect::kHandOver, record);
  });
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kHandOver);
  EXPECT_TRUE(registry_->Cancel(id).ok());
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_TRUE(done.cancel_requested);
}

TEST_F(RegistryTest, ACancelDuringARollbackIsAcceptedAndChangesNothing) {
  effects_.On(Effect::kLaunchTarget, [](const Migration& record, ::rehome::Interrupt&) {
    return FailureOutcome(Event::kRefused, "LAUNCH_FAILED", record);
  });
  effects_.HoldAt(Effect::kDiscardTarget, /*interruptible=*/false);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kDiscardTarget);
  EXPECT_EQ(registry_->Cancel(id)->state, MigrationState::kRollingBack);
  effects_.Release(Effect::kDiscardTarget);
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, "LAUNCH_FAILED");
}

TEST_F(RegistryTest, CancelSaysWhatIsUnknownAndWhatIsFinished) {
  EXPECT_EQ(ReasonOf(registry_->Cancel("m-0").status()), reason::kMigrationNotFound);
  const std::string id = MustCreate(Request(AddVm("db")));
  AwaitEnd(id);
  const auto late = registry_->Cancel(id);
  EXPECT_EQ(ReasonOf(late.status()), reason::kAlreadyFinished);
  EXPECT_NE(late.status().message().find("SUCCEEDED"), absl::string_view::npos);
}

// With one thread, held by the first migration, everything else waits in the queue.
class QueueTest : public RegistryTest {
 protected:
  QueueTest() {
    Registry::Options options;
    options.concurrent = 1;
    Start(std::move(options));
    effects_.HoldAt(Effect::kLaunchTarget);
    first_ = MustCreate(Request(AddVm("first", 1)));
    effects_.AwaitHeld(Effect::kLaunchTarget);
  }
  std::string first_;
};

TEST_F(QueueTest, AWaitingMigrationIsPendingAndRunsWhenItsTurnComes) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  EXPECT_EQ(registry_->Get(second)->state, MigrationState::kPending);
  effects_.Release(Effect::kLaunchTarget);
  EXPECT_EQ(AwaitEnd(second).state, MigrationState::kSucceeded);
  EXPECT_EQ(AwaitEnd(first_).state, MigrationState::kSucceeded);
}

TEST_F(QueueTest, AWaitingMigrationIsCancelledAtOnceThoughNoThreadIsFree) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  const auto cancelled = registry_->Cancel(second);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->state, MigrationState::kCancelled);
  EXPECT_TRUE(effects_.PerformedBy(second).empty());
  EXPECT_EQ(journal_.Appended(second).back().state, MigrationState::kCancelled);
  EXPECT_FALSE(IsTerminal(registry_->Get(first_)->state));
  EXPECT_NE(MustCreate(Request("second")), second) << "the VM is free again";
}

TEST_F(QueueTest, AWaitingMigrationFailsAtItsDeadlineThoughNoThreadIsFree) {
  MigrationRequest request = Request(AddVm("second", 2));
  request.deadline = std::chrono::milliseconds(20);
  const std::string second = MustCreate(request);
  const Migration done = AwaitEnd(second);
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kDeadlineExceeded);
  EXPECT_FALSE(IsTerminal(registry_->Get(first_)->state));
}

TEST_F(QueueTest, TheQueueIsBounded) {
  for (size_t i = 0; i < kMaxPending; ++i) {
    MustCreate(Request(AddVm(absl::StrCat("vm-", i), static_cast<int32_t>(100 + i))));
  }
  const auto beyond = registry_->Create(Request(AddVm("beyond", 99)));
  EXPECT_EQ(beyond.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(beyond.status()), reason::kQueueFull);
  EXPECT_EQ(vms_.Get("beyond")->active_migration, "");
}

TEST_F(QueueTest, StopEndsWhatRunsAndWhatWaitsWithTheGuestOnTheSource) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  registry_->Stop();
  for (const std::string& id : {first_, second}) {
    const auto record = registry_->Get(id);
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->state, MigrationState::kFailed);
    EXPECT_EQ(record->failure.reason, reason::kShuttingDown);
    EXPECT_EQ(record->owner, GuestOwner::kSource);
  }
  EXPECT_EQ(effects_.alive(), 0u);
  EXPECT_EQ(CreateError(Request("first")), reason::kShuttingDown);
  EXPECT_EQ(ListAll().size(), 2u);
  registry_->Stop();
}

TEST_F(RegistryTest, StopWaitsForAGuestThatIsBeingHandedOver) {
  effects_.HoldAt(Effect::kFenceSource, /*interruptible=*/false);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kFenceSource);
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    registry_->Stop();
    stopped = true;
  });
  // The stop is under way once the answer changes.
  std::string answer = std::string(reason::kMigrationInProgress);
  while (answer == reason::kMigrationInProgress) answer = CreateError(Request("db"));
  EXPECT_EQ(answer, reason::kShuttingDown);
  EXPECT_FALSE(stopped);
  effects_.Release(Effect::kFenceSource);
  stopper.join();
  EXPECT_EQ(registry_->Get(id)->state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, ADeadlineRollsBackWhatHasNotHandedOver) {
  effects_.HoldAt(Effect::kPrepareTarget);
  MigrationRequest request = Request(AddVm("db"));
  request.deadline = std::chrono::milliseconds(30);
  const Migration done = AwaitEnd(MustCreate(request));
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kDeadlineExceeded);
  EXPECT_EQ(done.owner, GuestOwner::kSource);
  EXPECT_FALSE(done.cancel_requested);
  EXPECT_EQ(effects_.PerformedBy(done.id).back(), Effect::kDiscardTarget);
}

}  // namespace
}  // namespace rehome
