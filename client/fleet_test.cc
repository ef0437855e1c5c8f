// SPDX-License-Identifier: Apache-2.0
#include "client/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <latch>
#include <set>
#include <thread>

#include "client/api_error.h"
#include "client/testing/fake_fleet.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {
namespace {

using Kind = FleetResult::Kind;
using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::SampleError;

class Heard final : public FleetObserver {
 public:
  void Started(const FleetResult& vm) override { started.push_back(vm.vm); }
  void Updated(const FleetResult& /*vm*/) override {}
  void Finished(const FleetResult& vm) override {
    finished.push_back(vm);
    if (vm.kind == Kind::kFailed) failed.count_down();
  }
  void Note(const std::string& text) override { notes.push_back(text); }

  std::vector<std::string> started, notes;
  std::vector<FleetResult> finished;
  std::latch failed{1};  // open once a VM has failed; of tests in which one does
};

class FleetTest : public ::testing::Test {
 protected:
  FleetTest()
      : daemon_(socket_.path()),
        client_({.socket_path = socket_.path(), .first_backoff = milliseconds(1)}) {
    options_.request.set_target_profile("vmm-2");
    options_.first_backoff = options_.last_backoff = milliseconds(5);
  }

  FleetMove& Prepare() {
    plan_ = *PlanFleet(&client_, options_.request.target_profile(), {});
    move_ = std::make_unique<FleetMove>(&client_, plan_, options_, &heard_);
    return *move_;
  }
  std::vector<Kind> Run() {
    Prepare().Run();
    return Kinds();
  }
  std::vector<Kind> Kinds() const {
    std::vector<Kind> kinds;
    for (const FleetResult& result : move_->Results()) kinds.push_back(result.kind);
    return kinds;
  }
  static grpc::Status Restarted() {
    return SampleError(grpc::StatusCode::UNAVAILABLE, "RECOVERING", "just started");
  }
  static v1::Migration CutShort() {
    v1::Migration migration = testing::RolledBackMigration();
    google::rpc::ErrorInfo info;
    info.set_reason("DAEMON_RESTARTED");
    info.set_domain("rehome");
    migration.mutable_error()->clear_details();
    migration.mutable_error()->add_details()->PackFrom(info);
    return migration;
  }

  const testing::TempSocket socket_;
  testing::FakeFleet daemon_;
  MigrationClient client_;
  FleetOptions options_;
  Heard heard_;
  FleetPlan plan_;
  std::unique_ptr<FleetMove> move_;
};

TEST_F(FleetTest, MovesAllAndNeverMoreAtATimeThanWanted) {
  daemon_.AddVms(20);
  daemon_.Hold("");
  options_.concurrency = 3;
  Prepare();
  std::thread run([this] { move_->Run(); });
  EXPECT_TRUE(daemon_.AwaitUnderWay(3));
  daemon_.Release("");
  run.join();
  EXPECT_THAT(Kinds(), Each(Kind::kMoved));
  EXPECT_EQ(daemon_.most_at_once(), 3u);
  EXPECT_EQ(heard_.started.size(), 20u);
  EXPECT_EQ(heard_.finished.size(), 20u);
}

TEST_F(FleetTest, TheSecondRunFindsAllThereAndStartsNothing) {
  daemon_.AddVms(5);
  Run();
  EXPECT_THAT(Run(), Each(Kind::kAlreadyThere));
  EXPECT_EQ(daemon_.started().size(), 5u);
}

TEST_F(FleetTest, EachRequestCarriesTheOptionsAndAnIdOfItsOwn) {
  daemon_.AddVms(4);
  options_.request.mutable_deadline()->set_seconds(90);
  Run();
  std::set<std::string> ids;
  for (const v1::CreateMigrationRequest& request : daemon_.started()) {
    EXPECT_EQ(request.deadline().seconds(), 90);
    ids.insert(request.request_id());
  }
  EXPECT_EQ(ids.size(), 4u);
  EXPECT_FALSE(ids.contains(""));
}

TEST_F(FleetTest, AFailureKeepsTheRestFromBeingStarted) {
  daemon_.AddVms(6);
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  options_.concurrency = 1;
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved, Kind::kFailed, Kind::kNotStarted, Kind::kNotStarted,
                                 Kind::kNotStarted, Kind::kNotStarted));
  EXPECT_EQ(daemon_.started().size(), 2u);
  EXPECT_TRUE(HasRecord(move_->Results()[1]));
}

TEST_F(FleetTest, ThoseUnderWayAreWaitedForAfterAFailure) {
  daemon_.AddVms(3);
  daemon_.Hold("vm-0");
  daemon_.Hold("vm-1");
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  options_.concurrency = 2;
  Prepare();
  std::thread run([this] { move_->Run(); });
  EXPECT_TRUE(daemon_.AwaitUnderWay(2));
  daemon_.Release("vm-1");
  heard_.failed.wait();
  daemon_.Release("vm-0");
  run.join();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kMoved, Kind::kFailed, Kind::kNotStarted));
}

TEST_F(FleetTest, KeepGoingMovesTheOthers) {
  daemon_.AddVms(4);
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  options_.keep_going = true;
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved, Kind::kFailed, Kind::kMoved, Kind::kMoved));
}

TEST_F(FleetTest, AnUnresolvedVmKeepsTheRestFromBeingStarted) {
  daemon_.AddVms(2);
  daemon_.EndWith("vm-1", {testing::IndeterminateMigration()});
  const std::string id = daemon_.Start("vm-1", "vmm-2");
  ASSERT_TRUE(client_.WatchMigration("migrations/" + id, {}).ok());
  EXPECT_THAT(Run(), ElementsAre(Kind::kNotStarted, Kind::kFailed));
  options_.keep_going = true;
  EXPECT_THAT(Run(), ElementsAre(Kind::kMoved, Kind::kFailed));
  EXPECT_EQ(daemon_.started().size(), 1u);
}

TEST_F(FleetTest, StopStartingWaitsForThoseUnderWay) {
  daemon_.AddVms(10);
  daemon_.Hold("");
  options_.concurrency = 2;
  Prepare();
  std::thread run([this] { move_->Run(); });
  EXPECT_TRUE(daemon_.AwaitUnderWay(2));
  move_->StopStarting();
  daemon_.Release("");
  run.join();
  EXPECT_EQ(std::ranges::count(Kinds(), Kind::kMoved), 2);
  EXPECT_EQ(std::ranges::count(Kinds(), Kind::kNotStarted), 8);
  EXPECT_THAT(Run(), ::testing::Contains(Kind::kMoved).Times(8)) << "the same again continues";
}

TEST_F(FleetTest, JoinsWhatSomebodyElseStartedAlsoAfterStopStarting) {
  daemon_.AddVms(3);
  daemon_.Hold("");
  daemon_.Start("vm-2", "vmm-2");
  options_.concurrency = 1;
  Prepare().StopStarting();
  std::thread run([this] { move_->Run(); });
  daemon_.Release("");
  run.join();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kNotStarted, Kind::kNotStarted, Kind::kMoved));
  EXPECT_TRUE(move_->Results()[2].joined);
  EXPECT_TRUE(daemon_.started().empty());
}

TEST_F(FleetTest, JoinsWhatIsStartedBetweenPlanAndTurn) {
  daemon_.AddVms(1);
  Prepare();
  daemon_.Start("vm-0", "vmm-2");
  move_->Run();
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kMoved));
  EXPECT_TRUE(move_->Results()[0].joined);
  EXPECT_TRUE(daemon_.started().empty());
}

TEST_F(FleetTest, AMigrationToAnotherProfileIsInTheWay) {
  daemon_.AddVms(1);
  daemon_.Hold("");
  daemon_.Start("vm-0", "vmm-3");
  EXPECT_THAT(Run(), ElementsAre(Kind::kFailed));
  EXPECT_FALSE(HasRecord(move_->Results()[0]));
  EXPECT_EQ(ApiReasonOf(move_->Results()[0].error), "MIGRATION_IN_PROGRESS");
}

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

TEST_F(FleetTest, ADryRunChecksAllAndStartsNothing) {
  daemon_.AddVms(4);
  daemon_.Hold("vm-3");
  daemon_.Start("vm-3", "vmm-2");
  daemon_.EndWith("vm-1", {testing::BlockedMigration()});
  options_.request.set_validate_only(true);
  EXPECT_THAT(Run(), ElementsAre(Kind::kMovable, Kind::kFailed, Kind::kMovable, Kind::kMovable));
  EXPECT_EQ(daemon_.checked().size(), 3u);
  EXPECT_TRUE(daemon_.started().empty());
  EXPECT_TRUE(heard_.started.empty());
}

}  // namespace
}  // namespace rehome
