// SPDX-License-Identifier: Apache-2.0
//
// Who may connect to the agent socket, and how many.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "daemon/agent_server.h"
#include "daemon/testing/agent_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::IsEmpty;
using testing_support::Bytes;
using testing_support::CountOpenFds;
using testing_support::FakeAgent;
using testing_support::kPatience;
using testing_support::MakeRegister;

class AgentServerLimitsTest : public testing_support::AgentFixture {
 protected:
  FakeAgent Connect() { return FakeAgent::Connect(options_.socket_path); }
  // An owner that has said HELLO.
  FakeAgent ConnectOwner() {
    FakeAgent agent = Connect();
    EXPECT_EQ(agent.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_NONE);
    return agent;
  }
  bool EventuallyGone(const std::string& vm_id) {
    return Eventually([&] { return !vms_.Get(vm_id).ok(); });
  }
};

// ---- who may connect ----

TEST_F(AgentServerLimitsTest, DeniesAPeerWhoseUserIsNotListed) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  options_.peers.gids = {12345};  // makes the socket reachable for others
  StartServer();
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  constexpr uid_t kNobody = 65534;
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(3);
    FakeAgent agent = FakeAgent::Connect(options_.socket_path);
    _exit(agent.Hello(REHOME_ROLE_OWNER) == UINT32_MAX ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "it must not get an answer";
  EXPECT_EQ(server_->stats().denied, 1u);
  ASSERT_TRUE(Eventually([&] { return log().size() == 1; })) << log().size();
  EXPECT_THAT(log()[0], HasSubstr("denied pid " + std::to_string(child) + ", uid 65534"));
}

TEST_F(AgentServerLimitsTest, AllowsAPeerByItsGroup) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  constexpr gid_t kGroup = 12345;
  options_.peers.uids = {};
  options_.peers.gids = {kGroup};
  StartServer();
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(kGroup) != 0 || setuid(65534) != 0) _exit(3);
    FakeAgent agent = FakeAgent::Connect(options_.socket_path);
    _exit(agent.Hello(REHOME_ROLE_OWNER) == REHOME_REFUSED_NONE ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(AgentServerLimitsTest, ItsSocketIsTheDaemonsAloneUnlessOthersAreListed) {
  const mode_t before = umask(0);
  StartServer();
  umask(before);
  struct stat file = {};
  ASSERT_EQ(lstat(options_.socket_path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(options_.socket_path)) << "removed at the end";

  options_.peers.uids.push_back(107);
  umask(077);
  StartServer();
  umask(before);
  ASSERT_EQ(lstat(options_.socket_path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0666u);
}

TEST_F(AgentServerLimitsTest, TakesOverTheSocketOfADeadDaemonButNotOfALivingOne) {
  StartServer();
  const absl::Status in_use = AgentServer::Create(options_, &vms_, kinds_.get()).status();
  EXPECT_EQ(in_use.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(in_use), "SOCKET_IN_USE");
  EXPECT_THAT(std::string(in_use.message()), HasSubstr(options_.socket_path));
  FakeAgent still_served = ConnectOwner();

  // A socket file that nobody listens on, as a killed daemon leaves it.
  std::filesystem::rename(options_.socket_path, options_.socket_path + ".moved");
  server_.reset();
  std::filesystem::rename(options_.socket_path + ".moved", options_.socket_path);
  StartServer();
  ConnectOwner();
}

TEST_F(AgentServerLimitsTest, LeavesFilesAloneThatAreNoSockets) {
  std::ofstream(options_.socket_path) << "precious";
  EXPECT_EQ(ReasonOf(AgentServer::Create(options_, &vms_, kinds_.get()).status()), "SOCKET_IN_USE");
  EXPECT_EQ(std::filesystem::file_size(options_.socket_path), 8u);
  options_.socket_path = directory_ + "/missing/s";
  EXPECT_EQ(ReasonOf(AgentServer::Create(options_, &vms_, kinds_.get()).status()), "SOCKET_FAILED");
  options_.socket_path = "/" + std::string(200, 'x');
  EXPECT_EQ(ReasonOf(AgentServer::Create(options_, &vms_, kinds_.get()).status()), "SOCKET_FAILED");
}

// ---- bounds ----

TEST_F(AgentServerLimitsTest, ASilentConnectionIsClosedInTime) {
  options_.hello_timeout = milliseconds(30);
  StartServer();
  FakeAgent agent = Connect();
  EXPECT_TRUE(agent.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().timed_out == 1; }));
  EXPECT_EQ(server_->stats().connections, 0u);
}

TEST_F(AgentServerLimitsTest, AConnectionThatSaidHelloMayBeSilent) {
  options_.hello_timeout = milliseconds(30);
  StartServer();
  FakeAgent polite = ConnectOwner();
  FakeAgent silent = Connect();
  EXPECT_TRUE(silent.AwaitEnd()) << "by then the other one's time would be over as well";
  EXPECT_EQ(polite.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
}

TEST_F(AgentServerLimitsTest, TheOldestSilentConnectionMakesRoomForANewOne) {
  options_.max_unsettled_connections = 2;
  StartServer();
  FakeAgent oldest = Connect();
  FakeAgent middle = Connect();
  FakeAgent newest = Connect();
  EXPECT_TRUE(oldest.AwaitEnd());
  EXPECT_EQ(newest.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_NONE);
  EXPECT_EQ(middle.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_NONE);
  EXPECT_EQ(server_->stats().crowded_out, 1u);
}

TEST_F(AgentServerLimitsTest, ConnectionsBeyondTheLimitAreClosedAndOthersLive) {
  options_.max_connections = 2;
  StartServer();
  FakeAgent first = ConnectOwner();
  FakeAgent second = ConnectOwner();
  FakeAgent third = Connect();
  EXPECT_TRUE(third.AwaitEnd());
  EXPECT_EQ(server_->stats().crowded_out, 1u);
  FakeAgent target;
  LaunchedVmm launched = MakeLaunched(&target);
  const absl::Status full = server_->AdoptTarget(launched, kPatience, nullptr).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), "TOO_MANY_CONNECTIONS");
  EXPECT_TRUE(target.AwaitEnd()) << "the connection was taken over and is closed";
  EXPECT_EQ(first.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  second.Close();
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 1; }));
  ConnectOwner();
}

TEST_F(AgentServerLimitsTest, GoesOnWhenDescriptorsRunOutAndComeBack) {
  StartServer();
  FakeAgent witness = ConnectOwner();
  FakeAgent waiting;
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  {
    // Our end of the connection is made before the limit falls; the daemon's cannot be.
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    rlimit low = before;
    low.rlim_cur = 3;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, options_.socket_path.data(), options_.socket_path.size());
    ASSERT_EQ(connect(socket.borrow().raw(), reinterpret_cast<const sockaddr*>(&address),
                      sizeof(address)),
              0);
    waiting = FakeAgent(std::move(socket));
  }
  ASSERT_TRUE(Eventually([&] { return !log().empty(); }));
  EXPECT_THAT(log().front(), HasSubstr("Too many open files"));
  EXPECT_EQ(witness.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(waiting.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_NONE);
}

TEST_F(AgentServerLimitsTest, MisbehavingPeersDoNotFloodTheLog) {
  StartServer();
  for (uint32_t i = 0; i < kAgentLogBurst + 5; ++i) {
    FakeAgent agent = Connect();
    agent.SendDatagram(Bytes(8));
    EXPECT_TRUE(agent.AwaitEnd());
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().violations == kAgentLogBurst + 5; }));
  // Lines are written a moment after they are counted.
  EXPECT_TRUE(Eventually([&] { return log().size() >= kAgentLogBurst; }));
  EXPECT_EQ(log().size(), kAgentLogBurst);
}

TEST_F(AgentServerLimitsTest, ServesManyAgentsWhoComeAndGo) {
  StartServer();
  const size_t before = CountOpenFds();
  constexpr int kThreads = 4, kRounds = 25;
  std::vector<std::future<bool>> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.push_back(std::async(std::launch::async, [&, t] {
      for (int i = 0; i < kRounds; ++i) {
        FakeAgent agent = FakeAgent::Connect(options_.socket_path);
        if (agent.Hello(REHOME_ROLE_OWNER) != REHOME_REFUSED_NONE) return false;
        const std::string id = "vm-" + std::to_string(t) + "-" + std::to_string(i);
        if (agent.Register(MakeRegister(id)) != REHOME_REFUSED_NONE) return false;
        if (i % 3 == 0) agent.SendDatagram(Bytes(7));
      }
      return true;
    }));
  }
  for (std::future<bool>& client : clients) EXPECT_TRUE(client.get());
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 0; }));
  EXPECT_THAT(vms_.List(), IsEmpty());
  EXPECT_TRUE(Eventually([&] { return CountOpenFds() == before; }));
}

}  // namespace
}  // namespace rehome
