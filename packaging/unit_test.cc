// SPDX-License-Identifier: Apache-2.0
//
// The numbers of the systemd unit are those of the code, and what guests depend on is in it.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "daemon/agent_server.h"
#include "daemon/config.h"
#include "daemon/effect_timeouts.h"
#include "daemon/escrow_store.h"
#include "daemon/fence.h"
#include "daemon/registry.h"

namespace rehome {
namespace {

// Descriptors of the daemon beside agents and escrows: API clients, watches, epolls, logs.
constexpr size_t kDescriptorsBeside = 4096;

// Settings by name; a comment ends up nowhere. Fails if one is there twice.
std::map<std::string, std::string> ReadUnit() {
  std::map<std::string, std::string> settings;
  std::ifstream file("packaging/rehomed.service");
  EXPECT_TRUE(file.is_open());
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#' || line[0] == '[') continue;
    const std::pair<std::string, std::string> setting =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    EXPECT_TRUE(settings.insert(setting).second) << line;
  }
  return settings;
}

uint64_t Number(const std::string& text) {
  uint64_t number = 0;
  EXPECT_TRUE(absl::SimpleAtoi(text, &number)) << text;
  return number;
}

TEST(ServiceUnit, TheStoreHasRoomForExactlyWhatTheDaemonPutsIntoIt) {
  EXPECT_EQ(Number(ReadUnit()["FileDescriptorStoreMax"]), kMaxStoredFds);
  EXPECT_GE(kMaxStoredEscrows, 2 * kMaxConcurrent);
}

TEST(ServiceUnit, TheDaemonMayOpenWhatItsBoundsAllow) {
  EXPECT_GE(Number(ReadUnit()["LimitNOFILE"]),
            2 * kMaxAgentConnections + kMaxStoredFds + kDescriptorsBeside);
}

// What is under way is brought to its end: in the blackout to its verdict, then to the proof.
TEST(ServiceUnit, ADaemonThatIsToldToEndHasTheTimeToFence) {
  const EffectTimeouts timeouts;
  const std::chrono::milliseconds needed = kMaxHandoverTimeout + kDefaultResolveTimeout +
                                           timeouts.first_run + timeouts.agent +
                                           2 * timeouts.release + timeouts.exit + kFindForkWait;
  EXPECT_GE(std::chrono::seconds(Number(ReadUnit()["TimeoutStopSec"])), needed);
}

TEST(ServiceUnit, VmmsOutliveTheDaemonAndTheirEscrowOutlivesItsFailures) {
  std::map<std::string, std::string> unit = ReadUnit();
  EXPECT_EQ(unit["KillMode"], "process");
  EXPECT_EQ(unit["OOMPolicy"], "continue");
  EXPECT_EQ(unit["Restart"], "on-failure");
  EXPECT_EQ(unit["StartLimitIntervalSec"], "0");
  EXPECT_EQ(unit["Type"], "notify");
  EXPECT_EQ(unit["NotifyAccess"], "main");
}

TEST(ServiceUnit, NothingTakesTheKernelsVirtualMachinesOrOtherProcessesAway) {
  const std::map<std::string, std::string> unit = ReadUnit();
  for (const char* setting : {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock",
                              "ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs"}) {
    EXPECT_FALSE(unit.contains(setting)) << setting;
  }
}

TEST(ServiceUnit, ItsDirectoriesAreThoseOfTheDefaultConfiguration) {
  std::map<std::string, std::string> unit = ReadUnit();
  const DaemonConfig config;
  EXPECT_EQ("/var/lib/" + unit["StateDirectory"], config.state_directory);
  EXPECT_EQ("/run/" + unit["RuntimeDirectory"] + "/api.sock", config.api_socket);
  EXPECT_EQ("/run/" + unit["RuntimeDirectory"] + "/agent.sock", config.agent_socket);
}

}  // namespace
}  // namespace rehome
