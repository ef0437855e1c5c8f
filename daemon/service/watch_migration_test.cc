// SPDX-License-Identifier: Apache-2.0
//
// The promises of MigrationService.WatchMigration.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "daemon/service/testing/migration_caller.h"
#include "daemon/service/testing/test_daemon.h"

namespace rehome {
namespace {

using testing::MigrationCaller;
using testing::TestDaemon;

class WatchMigrationTest : public ::testing::Test {
 protected:
  WatchMigrationTest() : caller_(daemon_) {}

  TestDaemon daemon_;
  MigrationCaller caller_;
};

TEST_F(WatchMigrationTest, WatchStartsWithASnapshotAndEndsWithTheTerminalState) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kPrepareTarget);
  const std::string name = caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name();
  daemon_.effects().AwaitHeld(Effect::kPrepareTarget);
  grpc::ClientContext context;
  v1::WatchMigrationRequest request;
  request.set_name(name);
  const auto stream = caller_.stub().WatchMigration(&context, request);
  v1::WatchMigrationResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.migration().state(), v1::Migration::PREPARING);
  int64_t revision = response.migration().revision();
  daemon_.effects().Release(Effect::kPrepareTarget);
  while (stream->Read(&response)) {
    ASSERT_TRUE(response.has_migration());
    EXPECT_GT(response.migration().revision(), revision);
    revision = response.migration().revision();
  }
  EXPECT_EQ(response.migration().state(), v1::Migration::SUCCEEDED);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(WatchMigrationTest, WatchOfAFinishedMigrationSendsItAlsoToThoseWhoKnowIt) {
  daemon_.AddVm("web-1");
  const v1::Migration done =
      caller_.AwaitEnd(caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name());
  for (const int64_t known : {int64_t{0}, done.revision(), done.revision() + 5}) {
    grpc::Status status;
    const auto all = caller_.Watch(done.name(), known, &status);
    EXPECT_TRUE(status.ok());
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].migration().state(), v1::Migration::SUCCEEDED);
  }
}

TEST_F(WatchMigrationTest, ResumedWatchStartsWithAHeartbeatIfNothingIsNew) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kPrepareTarget);
  const std::string name = caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name();
  daemon_.effects().AwaitHeld(Effect::kPrepareTarget);
  const int64_t revision =
      static_cast<int64_t>(daemon_.registry().Get(name.substr(name.find('/') + 1))->revision);
  grpc::ClientContext context;
  v1::WatchMigrationRequest request;
  request.set_name(name);
  request.set_resume_revision(revision);
  const auto stream = caller_.stub().WatchMigration(&context, request);
  v1::WatchMigrationResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.heartbeat().revision(), revision);
  daemon_.effects().Release(Effect::kPrepareTarget);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_GT(response.migration().revision(), revision);
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(WatchMigrationHeartbeatTest, SilentWatchSaysThatItIsAlive) {
  TestDaemon daemon({.heartbeat_interval = std::chrono::milliseconds(10)});
  MigrationCaller caller(daemon);
  daemon.AddVm("web-1");
  daemon.effects().HoldAt(Effect::kPrepareTarget);
  v1::WatchMigrationRequest request;
  request.set_name(caller.MustCreate(MigrationCaller::RequestFor("web-1")).name());
  daemon.effects().AwaitHeld(Effect::kPrepareTarget);
  grpc::ClientContext context;
  const auto stream = caller.stub().WatchMigration(&context, request);
  v1::WatchMigrationResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const int64_t revision = response.migration().revision();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.heartbeat().revision(), revision);
  }
  daemon.effects().Release(Effect::kPrepareTarget);
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(response.migration().state(), v1::Migration::SUCCEEDED);
}

}  // namespace
}  // namespace rehome
