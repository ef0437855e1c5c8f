// SPDX-License-Identifier: Apache-2.0
//
// A running AgentServer on a socket of its own, and links to peers in this process.
#ifndef REHOME_DAEMON_TESTING_AGENT_FIXTURE_H_
#define REHOME_DAEMON_TESTING_AGENT_FIXTURE_H_

#include <unistd.h>

#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/agent_server.h"
#include "daemon/process_identity.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/fake_agent.h"
#include "daemon/vm_directory.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"

namespace rehome::testing_support {

class AgentFixture : public testing::Test {
 protected:
  void SetUp() override {
    // Not TempDir(): Bazel's is longer than the address of a socket can be.
    std::string directory = "/tmp/rehome_agents_XXXXXX";
    ASSERT_NE(mkdtemp(directory.data()), nullptr);
    directory_ = directory;
    options_.socket_path = directory_ + "/s";
    options_.peers.uids = {geteuid()};
    options_.log = [this](std::string_view line) {
      std::lock_guard lock(log_mutex_);
      log_.emplace_back(line);
    };
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }
  void StartServer() {
    absl::StatusOr<std::unique_ptr<AgentServer>> server =
        AgentServer::Create(options_, &vms_, kinds_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_TRUE(server_->StartAccepting().ok());
  }
  std::vector<std::string> log() {
    std::lock_guard lock(log_mutex_);
    return log_;
  }
  // A target whose process is this one.
  LaunchedVmm MakeLaunched(FakeAgent* agent) {
    LaunchedVmm launched;
    absl::StatusOr<SocketPair> pair = CreateSocketPair();
    absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
    EXPECT_TRUE(pair.ok() && pidfd.ok());
    launched.connection = std::move(pair->first);
    launched.pidfd = *std::move(pidfd);
    absl::StatusOr<ProcessIdentity> process = IdentifyProcess(launched.pidfd.borrow());
    EXPECT_TRUE(process.ok());
    launched.process = *process;
    *agent = FakeAgent(std::move(pair->second));
    return launched;
  }
  // A target that has said HELLO, and the daemon's link to it.
  std::shared_ptr<VmmLink> AdoptTarget(FakeAgent* agent) {
    LaunchedVmm launched = MakeLaunched(agent);
    auto link = std::async(std::launch::async,
                           [&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
    EXPECT_EQ(agent->Hello(REHOME_ROLE_TARGET), REHOME_REFUSED_NONE);
    absl::StatusOr<std::shared_ptr<VmmLink>> result = link.get();
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : nullptr;
  }
  // Waits until `condition` holds; there is no event for what another thread has not done yet.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

  std::string directory_;
  VmDirectory vms_;
  std::unique_ptr<FdKinds> kinds_ = NewSimFdKinds();
  AgentServer::Options options_;
  std::mutex log_mutex_;
  std::vector<std::string> log_;
  std::unique_ptr<AgentServer> server_;
};

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_AGENT_FIXTURE_H_
