// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/daemon_config.h"

#include "daemon/config.h"
#include "gtest/gtest.h"

namespace rehome::harness {
namespace {

TEST(DaemonConfigTest, TheDaemonReadsBackWhatWasMeant) {
  const DaemonConfigText text = {
      .kernel = "sim",
      .state_directory = "/tmp/a b",
      .api_socket = "/tmp/api.sock",
      .agent_socket = "/tmp/agent.sock",
      .more = {"handover_timeout_ms = 50"},
      .profiles = {{.name = "v2.1",
                    .command = {"/bin/vmm", "--say", "\"quoted\\\" \t\x01"},
                    .environment = {{"MARK", "one"}, {"OTHER", "two \"2\""}},
                    .more = {"enabled = false"}},
                   {.name = "plain", .command = {"/bin/vmm"}}}};
  const auto config = rehome::ParseConfig(ToToml(text), "test");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kernel, KernelBackend::kSim);
  EXPECT_EQ(config->state_directory, text.state_directory);
  EXPECT_EQ(config->api_socket, text.api_socket);
  EXPECT_EQ(config->agent_socket, text.agent_socket);
  EXPECT_EQ(config->handover_timeout, std::chrono::milliseconds(50));
  ASSERT_EQ(config->profiles.size(), 2u);
  const VmmProfile& profile = config->profiles.at("v2.1");
  EXPECT_EQ(profile.command, text.profiles[0].command);
  EXPECT_EQ(profile.environment, text.profiles[0].environment);
  EXPECT_FALSE(profile.enabled);
  EXPECT_TRUE(config->profiles.at("plain").environment.empty());
}

}  // namespace
}  // namespace rehome::harness
