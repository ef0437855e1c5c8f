// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/peer_table.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include "client/testing/temp_socket.h"
#include "daemon/service/api_server.h"
#include "daemon/service/watch_gate.h"
#include "rehome/v1/host.grpc.pb.h"

namespace rehome {
namespace {

constexpr std::chrono::seconds kPatience(20);

std::pair<UniqueFd, UniqueFd> SocketPair() {
  std::array<int, 2> ends{};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string PeerName(const UniqueFd& connection) {
  return "fd:" + std::to_string(connection.borrow().raw());
}

TEST(PeerTableTest, PeerIsWhomTheKernelSays) {
  const auto ends = SocketPair();
  const auto peer = IdentifyApiPeer(ends.first.borrow());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_EQ(peer->gid, getegid());
  EXPECT_EQ(peer->ToString(),
            "uid=" + std::to_string(geteuid()) + " pid=" + std::to_string(getpid()));
}

TEST(PeerTableTest, FindsByTheNameThatGrpcUses) {
  PeerTable table;
  const auto ends = SocketPair();
  ASSERT_TRUE(table.Add(ends.first.borrow(), {.pid = 7, .uid = 42}));
  EXPECT_EQ(table.Find(PeerName(ends.first))->uid, 42u);
  EXPECT_EQ(table.Describe(PeerName(ends.first)), "uid=42 pid=7");
  for (const char* stranger : {"", "fd:", "fd:x", "fd:12x", "ipv4:127.0.0.1:80", "unix:"}) {
    EXPECT_FALSE(table.Find(stranger).has_value()) << stranger;
  }
  EXPECT_EQ(table.Describe("fd:99999"), "unknown");
}

TEST(PeerTableTest, NumberThatIsGivenOutAgainIsTheNewPeer) {
  PeerTable table;
  auto ends = SocketPair();
  const std::string name = PeerName(ends.first);
  ASSERT_TRUE(table.Add(ends.first.borrow(), {.pid = 1, .uid = 1}));
  const int number = ends.first.borrow().raw();
  ends.first.Reset();
  auto other = SocketPair();
  UniqueFd again(dup2(other.first.borrow().raw(), number));
  ASSERT_TRUE(table.Add(again.borrow(), {.pid = 2, .uid = 2}));
  EXPECT_EQ(table.Find(name)->uid, 2u);
}

TEST(PeerTableTest, OnlyOpenConnectionsCount) {
  PeerTable table(/*max_connections=*/2);
  auto first = SocketPair();
  auto second = SocketPair();
  const auto third = SocketPair();
  ASSERT_TRUE(table.Add(first.first.borrow(), {}));
  ASSERT_TRUE(table.Add(second.first.borrow(), {}));
  EXPECT_FALSE(table.Add(third.first.borrow(), {}));
  EXPECT_FALSE(table.Find(PeerName(third.first)).has_value());
  second.first.Reset();
  EXPECT_TRUE(table.Add(third.first.borrow(), {}));
}

// Answers a call only when told to, and remembers which descriptor and which socket it came by.
class SlowHost final : public v1::HostService::Service {
 public:
  grpc::Status GetHost(grpc::ServerContext* context, const v1::GetHostRequest* /*request*/,
                       v1::Host* /*response*/) override {
    if (busy_.exchange(true)) return grpc::Status::OK;
    const std::string peer = context->peer();
    int number = -1;
    std::from_chars(peer.data() + 3, peer.data() + peer.size(), number);
    const absl::StatusOr<FileIdentity> before = Identify(BorrowedFd(number));
    entered_.set_value();
    leave_.get_future().wait();
    const absl::StatusOr<FileIdentity> after = Identify(BorrowedFd(number));
    same_.set_value(context->IsCancelled() && before.ok() && after.ok() && before->id == after->id);
    return grpc::Status::OK;
  }

  bool AwaitEntered() {
    return entered_.get_future().wait_for(kPatience) == std::future_status::ready;
  }
  // Whether the first call's client was gone, but its descriptor the same to the end.
  bool Leave() {
    leave_.set_value();
    return same_.get_future().get();
  }

 private:
  std::atomic<bool> busy_ = false;
  std::promise<void> entered_;
  std::promise<void> leave_;
  std::promise<bool> same_;
};

grpc::Status CallOverOwnConnection(const std::string& socket_path, std::chrono::seconds timeout) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel = grpc::CreateCustomChannel("unix:" + socket_path,
                                                 grpc::InsecureChannelCredentials(), arguments);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  v1::Host host;
  return v1::HostService::NewStub(channel)->GetHost(&context, v1::GetHostRequest(), &host);
}

// What the table rests on: gRPC closes a descriptor only when no call of its connection runs.
TEST(PeerTableTest, DescriptorStaysTheCallsOwnWhenItsClientIsGone) {
  const testing::TempSocket socket;
  PeerTable peers;
  WatchGate watches;
  SlowHost host;
  const auto server =
      ApiServer::Start({.socket_path = socket.path(), .allowed = {.uids = {geteuid()}, .gids = {}}},
                       {&host}, &peers, &watches);
  ASSERT_TRUE(server.ok()) << server.status();
  // This client gives up and closes its connection while the handler is still at work.
  const grpc::Status given_up = CallOverOwnConnection(socket.path(), std::chrono::seconds(1));
  EXPECT_EQ(given_up.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(host.AwaitEntered());
  // These take the lowest free numbers there are.
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(CallOverOwnConnection(socket.path(), kPatience).ok());
  }
  EXPECT_TRUE(host.Leave());
}

}  // namespace
}  // namespace rehome
