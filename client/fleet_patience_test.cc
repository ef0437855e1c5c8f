// SPDX-License-Identifier: Apache-2.0
//
// A daemon that is away, full, or in the way: what FleetMove waits for, and for how long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "client/api_error.h"
#include "client/fleet_fixture.h"
#include "client/testing/sample_records.h"

namespace rehome {
namespace {

using Kind = FleetResult::Kind;
using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::SampleError;

TEST_F(FleetTest, ALostAnswerIsAskedForAgainAndStartsNothingTwice) {
  daemon_.AddVms(3);
  daemon_.LoseNextAnswer();
  options_.concurrency = 1;
  EXPECT_THAT(Run(), Each(Kind::kMoved));
  EXPECT_EQ(daemon_.started().size(), 3u);
  EXPECT_EQ(daemon_.asked(), 4u);
}

TEST_F(FleetTest, ARestartedDaemonIsWaitedForBeyondTheTriesOfOneCall) {
  daemon_.AddVms(2);
  daemon_.RefuseNext(std::vector<grpc::Status>(8, Restarted()));
  EXPECT_THAT(Run(), Each(Kind::kMoved));
  EXPECT_EQ(heard_.notes.size(), 1u) << "once for all who wait";
}

TEST_F(FleetTest, ADaemonThatGoesAwayAndComesBackIsSurvived) {
  daemon_.AddVms(6);
  daemon_.Hold("");
  options_.concurrency = 2;
  Prepare();
  std::thread run([this] { move_->Run(); });
  EXPECT_TRUE(daemon_.AwaitUnderWay(2));
  daemon_.GoAway();
  daemon_.Release("");
  daemon_.ComeBack();
  run.join();
  EXPECT_THAT(Kinds(), Each(Kind::kMoved)) << move_->Results()[0].error;
  EXPECT_EQ(daemon_.started().size(), 6u);
}

TEST_F(FleetTest, ADaemonThatStaysAwayIsGivenUp) {
  daemon_.AddVms(2);
  options_.give_up_after = milliseconds(50);
  Prepare();
  daemon_.GoAway();
  move_->Run();
  EXPECT_EQ(move_->Results()[0].kind, Kind::kFailed);
  EXPECT_TRUE(absl::IsUnavailable(move_->Results()[0].error));
}

TEST_F(FleetTest, WhatADaemonsEndCutShortIsStartedAgainButNotForEver) {
  daemon_.AddVms(2);
  daemon_.EndWith("vm-0", {CutShort(), CutShort()});
  daemon_.EndWith("vm-1", {CutShort(), CutShort(), CutShort()});
  options_.keep_going = true;
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved, Kind::kFailed));
  EXPECT_EQ(daemon_.started().size(), 6u);
}

TEST_F(FleetTest, AVmThatIsMissingIsLookedForAndThenAFailure) {
  daemon_.AddVms(1);
  options_.vm_patience = milliseconds(50);
  Prepare();
  daemon_.Disconnect("vm-0");
  move_->Run();
  EXPECT_EQ(ApiReasonOf(move_->Results()[0].error), "VM_NOT_FOUND");
  EXPECT_GT(daemon_.asked(), 1u);
}

TEST_F(FleetTest, AFullQueueIsWaitedFor) {
  daemon_.AddVms(1);
  daemon_.RefuseNext({SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")});
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved));
}

TEST_F(FleetTest, AQueueThatStaysFullIsAFailureWithItsReason) {
  daemon_.AddVms(1);
  options_.give_up_after = milliseconds(50);
  daemon_.RefuseNext(std::vector<grpc::Status>(
      1000, SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")));
  EXPECT_THAT(Run(), ElementsAre(Kind::kFailed));
  EXPECT_EQ(ApiReasonOf(move_->Results()[0].error), "QUEUE_FULL");
}

TEST_F(FleetTest, EachKindOfRefusalHasItsOwnPatience) {
  daemon_.AddVms(1);
  options_.give_up_after = std::chrono::minutes(1);
  options_.vm_patience = milliseconds(300);
  Prepare();
  // The daemon is away for longer than a VM may be missing, and then misses the VM for a moment.
  options_.first_backoff = options_.last_backoff = milliseconds(1);
  const auto away = SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full");
  const auto missing = SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "not yet");
  std::vector<grpc::Status> refusals(400, away);
  refusals.insert(refusals.end(), 3, missing);
  daemon_.RefuseNext(refusals);
  move_->Run();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kMoved)) << move_->Results()[0].error;
}

TEST_F(FleetTest, AVmThatStaysTakenByAMigrationThatIsOverIsAFailure) {
  daemon_.AddVms(2);
  options_.give_up_after = milliseconds(50);
  options_.keep_going = true;
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  const std::string ended = daemon_.Start("vm-1", "vmm-2");
  ASSERT_TRUE(client_.WatchMigration("migrations/" + ended, {}).ok());
  Prepare();
  daemon_.StayTaken("vm-0", "m-that-nobody-knows");
  daemon_.StayTaken("vm-1", ended);
  move_->Run();
  EXPECT_THAT(Kinds(), Each(Kind::kFailed));
  for (const FleetResult& result : move_->Results()) {
    EXPECT_EQ(ApiReasonOf(result.error), "MIGRATION_IN_PROGRESS") << result.vm;
  }
  EXPECT_GT(daemon_.asked(), 4u) << "it may have been about to be free";
}

TEST_F(FleetTest, WhatIsInTheWayAndCannotBeReadIsGivenUp) {
  daemon_.AddVms(1);
  options_.give_up_after = milliseconds(50);
  Prepare();
  daemon_.StayTaken("vm-0", "m-1");
  daemon_.FailReads(Restarted());
  move_->Run();
  EXPECT_EQ(ApiReasonOf(move_->Results()[0].error), "MIGRATION_IN_PROGRESS");
}

TEST_F(FleetTest, OtherRefusalsCountAtOnce) {
  daemon_.AddVms(1);
  daemon_.RefuseNext({SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "FD_LIMIT", "no more")});
  EXPECT_THAT(Run(), ElementsAre(Kind::kFailed));
  EXPECT_EQ(daemon_.asked(), 1u);
}

TEST_F(FleetTest, WithoutAWatchStreamItAsksInstead) {
  daemon_.AddVms(1);
  daemon_.RefuseWatches(
      {SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES", "64 are open")});
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved));
}

TEST_F(FleetTest, AMigrationThatCanNeitherBeWatchedNorReadIsGivenUp) {
  daemon_.AddVms(2);
  options_.give_up_after = milliseconds(50);
  options_.concurrency = 1;
  options_.keep_going = true;
  daemon_.RefuseWatches(std::vector<grpc::Status>(
      1000, SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES", "64 are open")));
  daemon_.FailReads(Restarted());
  EXPECT_THAT(Run(), Each(Kind::kFailed));
  EXPECT_TRUE(absl::IsUnavailable(move_->Results()[0].error)) << move_->Results()[0].error;

  daemon_.FailReads(SampleError(grpc::StatusCode::NOT_FOUND, "MIGRATION_NOT_FOUND", "pruned"));
  options_.give_up_after = std::chrono::minutes(10);
  daemon_.AddVms(1);
  EXPECT_EQ(Run().back(), Kind::kFailed);
  EXPECT_EQ(ApiReasonOf(move_->Results().back().error), "MIGRATION_NOT_FOUND");
}

TEST_F(FleetTest, StoppedWhileItWaitsForTheDaemonItFindsOutWhatItStarted) {
  daemon_.AddVms(2);
  daemon_.Hold("");
  options_.concurrency = 1;
  Prepare();
  // Starts vm-0, whose answer is lost, and then answers nothing that helps.
  daemon_.LoseNextAnswer();
  std::thread run([this] { move_->Run(); });
  EXPECT_TRUE(daemon_.AwaitUnderWay(1));
  move_->StopStarting();
  daemon_.Release("");
  run.join();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kMoved, Kind::kNotStarted));
  EXPECT_EQ(daemon_.started().size(), 1u);
}

TEST_F(FleetTest, StoppedBeforeAnotherTryTheOneThatWasCutShortIsTheEnd) {
  daemon_.AddVms(1);
  daemon_.EndWith("vm-0", {CutShort()});
  options_.last_backoff = options_.first_backoff = std::chrono::minutes(10);
  daemon_.RefuseNext(
      {grpc::Status::OK, SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")});
  Prepare();
  std::thread run([this] { move_->Run(); });
  while (daemon_.asked() < 2) std::this_thread::yield();
  move_->StopStarting();
  run.join();
  EXPECT_EQ(heard_.started.size(), 1u);
  ASSERT_EQ(heard_.finished.size(), 1u) << "what was started has an end";
  EXPECT_EQ(heard_.finished[0].kind, Kind::kFailed);
  EXPECT_TRUE(HasRecord(heard_.finished[0]));
}

TEST_F(FleetTest, StoppedBeforeAnythingWorkedNothingWasStarted) {
  daemon_.AddVms(1);
  options_.last_backoff = options_.first_backoff = std::chrono::minutes(10);
  daemon_.RefuseNext({SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")});
  Prepare();
  std::thread run([this] { move_->Run(); });
  while (daemon_.asked() == 0) std::this_thread::yield();
  move_->StopStarting();
  run.join();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kNotStarted));
}

}  // namespace
}  // namespace rehome
