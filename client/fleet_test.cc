// SPDX-License-Identifier: Apache-2.0
#include "client/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "client/api_error.h"
#include "client/fleet_fixture.h"
#include "client/testing/sample_records.h"

namespace rehome {
namespace {

using Kind = FleetResult::Kind;
using ::testing::Each;
using ::testing::ElementsAre;

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
