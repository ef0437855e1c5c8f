// SPDX-License-Identifier: Apache-2.0
#include "client/migration_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "client/api_error.h"
#include "client/testing/fake_daemon.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {
namespace {

using ::testing::ElementsAre;
using testing::FakeDaemon;
using ::testing::HasSubstr;
using testing::SampleError;
using testing::SampleHistory;
using testing::TempSocket;

constexpr char kName[] = "migrations/m-0123456789abcdef";

class MigrationClientTest : public ::testing::Test {
 protected:
  MigrationClientTest()
      : daemon_(socket_.path()),
        client_({.socket_path = socket_.path(), .first_backoff = std::chrono::milliseconds(1)}) {
    daemon_.SetHistory(SampleHistory());
  }

  static v1::CreateMigrationRequest Request() {
    v1::CreateMigrationRequest request;
    request.set_vm("virtualMachines/web-1");
    request.set_target_profile("vmm-2");
    return request;
  }

  static grpc::Status Unavailable() {
    return SampleError(grpc::StatusCode::UNAVAILABLE, "SHUTTING_DOWN", "stopping");
  }

  TempSocket socket_;
  FakeDaemon daemon_;
  MigrationClient client_;
};

TEST_F(MigrationClientTest, TriesAgainWithTheSameRequestId) {
  daemon_.FailNext({Unavailable(), Unavailable()});
  ASSERT_TRUE(client_.CreateMigration(Request()).ok());
  const auto tries = daemon_.created();
  ASSERT_EQ(tries.size(), 3u);
  EXPECT_FALSE(tries[0].request_id().empty());
  EXPECT_EQ(tries[1].request_id(), tries[0].request_id());
  EXPECT_EQ(tries[2].request_id(), tries[0].request_id());
}

TEST_F(MigrationClientTest, GivesUpAfterThreeTries) {
  daemon_.FailNext({Unavailable(), Unavailable(), Unavailable(), Unavailable()});
  const auto created = client_.CreateMigration(Request());
  EXPECT_EQ(created.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ApiReasonOf(created.status()), "SHUTTING_DOWN");
  EXPECT_EQ(daemon_.created().size(), 3u);
}

TEST_F(MigrationClientTest, TriesNothingElseAgain) {
  for (const auto code : {grpc::StatusCode::ABORTED, grpc::StatusCode::DEADLINE_EXCEEDED,
                          grpc::StatusCode::RESOURCE_EXHAUSTED, grpc::StatusCode::INTERNAL}) {
    const size_t before = daemon_.created().size();
    daemon_.FailNext({SampleError(code, "SOME_REASON", "no")});
    EXPECT_FALSE(client_.CreateMigration(Request()).ok());
    EXPECT_EQ(daemon_.created().size(), before + 1) << code;
  }
}

TEST_F(MigrationClientTest, KeepsTheCallersRequestId) {
  v1::CreateMigrationRequest request = Request();
  request.set_request_id("mine");
  ASSERT_TRUE(client_.CreateMigration(request).ok());
  EXPECT_EQ(daemon_.created().at(0).request_id(), "mine");
}

TEST_F(MigrationClientTest, MakesARequestIdForEachMigration) {
  ASSERT_TRUE(client_.CreateMigration(Request()).ok());
  ASSERT_TRUE(client_.CreateMigration(Request()).ok());
  EXPECT_NE(daemon_.created().at(0).request_id(), daemon_.created().at(1).request_id());
}

TEST_F(MigrationClientTest, PassesOnTheDaemonsDetails) {
  daemon_.FailNext({SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "no such VM")});
  const auto vm = client_.GetVirtualMachine(v1::GetVirtualMachineRequest());
  EXPECT_EQ(vm.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(vm.status().message(), "no such VM");
  const ApiError details = DetailsOf(vm.status());
  EXPECT_EQ(details.info.reason(), "VM_NOT_FOUND");
  EXPECT_EQ(details.info.metadata().at("vm"), "web-1");
}

TEST_F(MigrationClientTest, WatchReportsEachRevisionAndReturnsTheLast) {
  std::vector<int64_t> revisions;
  const auto last =
      client_.WatchMigration(kName, {.on_update = [&](const v1::Migration& migration) {
                               revisions.push_back(migration.revision());
                             }});
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->state(), v1::Migration::SUCCEEDED);
  EXPECT_THAT(revisions, ElementsAre(1, 2, 3, 4, 5, 6, 7));
}

TEST_F(MigrationClientTest, WatchGoesOnWhereABrokenStreamEnded) {
  daemon_.BreakWatchAfter(2);  // revision 3
  std::vector<int64_t> revisions;
  int broken = 0;
  const auto last = client_.WatchMigration(
      kName,
      {.on_update =
           [&](const v1::Migration& migration) { revisions.push_back(migration.revision()); },
       .on_broken = [&](const absl::Status&) { ++broken; }});
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_THAT(revisions, ElementsAre(1, 2, 3, 4, 5, 6, 7)) << "nothing missed, nothing twice";
  EXPECT_EQ(broken, 1);
  ASSERT_EQ(daemon_.watched().size(), 2u);
  EXPECT_EQ(daemon_.watched()[1].resume_revision(), 3);
}

TEST_F(MigrationClientTest, WatchGoesOnAfterAServerThatStoppedCancelledIt) {
  daemon_.FailNext({grpc::Status(grpc::StatusCode::CANCELLED, "CANCELLED")});
  const auto last = client_.WatchMigration(kName, {});
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->state(), v1::Migration::SUCCEEDED);
  EXPECT_EQ(daemon_.watched().size(), 2u);
}

TEST_F(MigrationClientTest, WatchEndsWithAnErrorThatIsNotPassing) {
  daemon_.FailNext({SampleError(grpc::StatusCode::NOT_FOUND, "MIGRATION_NOT_FOUND", "pruned")});
  const auto last = client_.WatchMigration(kName, {});
  EXPECT_EQ(ApiReasonOf(last.status()), "MIGRATION_NOT_FOUND");
  EXPECT_EQ(daemon_.watched().size(), 1u);
}

TEST_F(MigrationClientTest, WatchStopsWaitingAtTheTimeout) {
  daemon_.HoldBefore(3);
  const auto last = client_.WatchMigration(kName, {.timeout = std::chrono::milliseconds(200)});
  EXPECT_EQ(last.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ApiReasonOf(last.status()), "WAIT_TIMEOUT");
}

TEST(MigrationClientUnreachableTest, SaysThatThereIsNoSocket) {
  const TempSocket socket;
  MigrationClient client(
      {.socket_path = socket.path(), .first_backoff = std::chrono::milliseconds(1)});
  const auto host = client.GetHost();
  EXPECT_EQ(host.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ApiReasonOf(host.status()), "DAEMON_UNREACHABLE");
  EXPECT_THAT(std::string(host.status().message()), HasSubstr("No such file or directory"));
}

TEST(MigrationClientUnreachableTest, WatchGivesUpOnADaemonThatStaysAway) {
  const TempSocket socket;
  MigrationClient client({.socket_path = socket.path()});
  int broken = 0;
  const auto last =
      client.WatchMigration(kName, {.on_broken = [&](const absl::Status&) { ++broken; },
                                    .give_up_after = std::chrono::milliseconds(500)});
  EXPECT_EQ(ApiReasonOf(last.status()), "DAEMON_UNREACHABLE");
  EXPECT_GT(broken, 0);
}

TEST(MigrationClientUnreachableTest, SaysThatThisUserIsNotWanted) {
  const TempSocket socket;
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(listener, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, socket.path().c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener, 16), 0);
  // Hangs up on everybody, as the daemon does with a peer that is not on its list.
  std::thread doorman([listener] {
    for (int peer = accept(listener, nullptr, nullptr); peer >= 0;
         peer = accept(listener, nullptr, nullptr)) {
      close(peer);
    }
  });
  MigrationClient client(
      {.socket_path = socket.path(), .first_backoff = std::chrono::milliseconds(1)});
  const auto host = client.GetHost();
  EXPECT_EQ(ApiReasonOf(host.status()), "PEER_NOT_ALLOWED") << host.status();
  shutdown(listener, SHUT_RDWR);
  doorman.join();
  close(listener);
}

}  // namespace
}  // namespace rehome
