// SPDX-License-Identifier: Apache-2.0
//
// What an operator gets wrong, and a host that runs out of room.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/api_error.h"
#include "tests/harness/daemon_config.h"
#include "tests/harness/process.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::DaemonConfigText;
using harness::ProfileOfVersion;
using v1::Migration;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// A daemon that is expected to say why it cannot start, and to exit.
class UnwillingDaemonTest : public Scenario {
 protected:
  DaemonConfigText Config() const {
    return {.kernel = "sim",
            .state_directory = own_.File("state"),
            .api_socket = own_.File("api.sock"),
            .agent_socket = own_.File("agent.sock"),
            .profiles = {{.name = "p", .command = {"/bin/true"}}}};
  }
  // Its exit code and log.
  std::pair<int, std::string> Run(const DaemonConfigText& config) {
    const std::string text = harness::ToToml(config);
    std::ofstream(config_path()) << text;
    auto daemon = harness::Process::Start(
        {.argv = {harness::BinaryPath("daemon/rehomed"), "--config", config_path()},
         .log_path = own_.File("log")});
    EXPECT_TRUE(daemon.ok()) << daemon.status();
    if (!daemon.ok()) return {-1, ""};
    const absl::StatusOr<int> status = daemon->WaitExit(kPatience);
    EXPECT_TRUE(status.ok()) << status.status();
    const bool exited = status.ok() && WIFEXITED(*status);
    return {exited ? WEXITSTATUS(*status) : -1, ReadFile(own_.File("log"))};
  }
  void ExpectRefusal(const DaemonConfigText& config, const std::string& reason,
                     const std::string& detail) {
    const auto [code, log] = Run(config);
    EXPECT_EQ(code, 1) << log;
    EXPECT_TRUE(absl::StrContains(log, reason)) << reason << " is not in: " << log;
    EXPECT_TRUE(absl::StrContains(log, detail)) << detail << " is not in: " << log;
  }
  std::string config_path() const { return own_.File("rehomed.toml"); }

  harness::TempDir own_;
};

TEST_F(UnwillingDaemonTest, ASecondDaemonOnAStateDirectoryIsRefusedAndTheFirstServesOn) {
  StartHost({.kernel = "sim"});
  StartGuest();
  DaemonConfigText config = Config();
  config.state_directory = host().state_directory();
  ExpectRefusal(config, "STATE_DIRECTORY_IN_USE", host().state_directory());
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(2))), guest(),
              {Migration::LINK, Migration::BEFORE_RESUME});
}

TEST_F(UnwillingDaemonTest, ASocketThatIsInUseIsNotTakenAwayFromItsOwner) {
  StartHost({.kernel = "sim"});
  StartGuest();
  DaemonConfigText api = Config();
  api.api_socket = host().api_socket();
  ExpectRefusal(api, "SOCKET_IN_USE", host().api_socket());
  DaemonConfigText agent = Config();
  agent.agent_socket = host().agent_socket();
  ExpectRefusal(agent, "SOCKET_IN_USE", host().agent_socket());
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(2))), guest(),
              {Migration::LINK, Migration::BEFORE_RESUME});
}

TEST_F(UnwillingDaemonTest, ATypoInTheConfigurationIsNamedWithFileLineAndKey) {
  DaemonConfigText config = Config();
  config.more = {"handover_timeot_ms = 50"};
  const std::string text = harness::ToToml(config);
  const size_t at = text.find("handover_timeot_ms");
  ASSERT_NE(at, std::string::npos);
  const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
  ExpectRefusal(config, "CONFIG_INVALID", absl::StrCat(config_path(), ":", line, ":"));
  ExpectRefusal(config, "CONFIG_INVALID", "daemon.handover_timeot_ms");
}

TEST_F(UnwillingDaemonTest, AStateDirectoryThatCannotBeWrittenIsSaidAtTheStart) {
  DaemonConfigText config = Config();
  config.state_directory = "/proc/rehome";  // where nobody makes a directory, root included
  ExpectRefusal(config, "STATE_DIRECTORY_UNUSABLE", "/proc/rehome");
}

class FullDiskTest : public Scenario {
 protected:
  void SetUp() override {
    if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, "") != 0) {
      GTEST_SKIP() << "mounting a small file system needs CAP_SYS_ADMIN";
    }
  }
  std::string filler() { return host().state_directory() + "/filler"; }
  // Leaves not one byte.
  void FillDisk() {
    std::ofstream file(filler(), std::ios::binary | std::ios::app);
    const std::string block(4096, 'x');
    for (size_t size : {block.size(), size_t{1}}) {
      while (file.write(block.data(), static_cast<std::streamsize>(size)) && file.flush()) {
      }
      file.clear();
    }
  }
};

TEST_F(FullDiskTest, AFullDiskUnderTheJournalRefusesMigrationsBeforeThePause) {
  StartHost({.kernel = "sim"});
  ASSERT_TRUE(host().StopDaemon().ok());
  ASSERT_EQ(mount("state", host().state_directory().c_str(), "tmpfs", 0, "mode=0700,size=1m"), 0);
  ASSERT_TRUE(host().StartDaemon().ok()) << host().DaemonLog();
  StartGuest();
  FillDisk();

  const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2)));
  if (created.ok()) {
    // The disk had room for its admission, and then none for what followed.
    const Migration record = Watch(created->name());
    ExpectFailed(record, guest(), "JOURNAL_FULL");
    EXPECT_FALSE(record.guest_paused());
  } else {
    EXPECT_EQ(ApiReasonOf(created.status()), "JOURNAL_FULL") << created.status();
    EXPECT_EQ(created.status().code(), absl::StatusCode::kResourceExhausted) << created.status();
    ExpectStayed(guest());
    ExpectNothingLeft();
  }

  ASSERT_TRUE(std::filesystem::remove(filler()));
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(2))), guest(),
              {Migration::LINK, Migration::BEFORE_RESUME});
}

}  // namespace
}  // namespace rehome
