// SPDX-License-Identifier: Apache-2.0
#include "daemon/config.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kFullFile[] = R"(
[daemon]
state_directory = "/srv/rehome"
api_socket = "/run/r/api.sock"
agent_socket = "/run/r/agent.sock"
api_allowed_uids = [0, 1000]
api_allowed_gids = [27]
agent_allowed_uids = [107]
agent_allowed_gids = []
kernel = "sim"
link_ioctl = 0xd5
concurrent_migrations = 3
handover_timeout_ms = 40
resolve_timeout_ms = 700
deadline_ms = 60000
agent_timeout_ms = 1500
first_run_timeout_ms = 3000
release_timeout_ms = 250
exit_timeout_ms = 20000
log_level = "warning"
trace = false

[metrics]
listen = "127.0.0.1:9464"

[profile.next]
command = ["/usr/bin/vmm", "--incoming"]
environment = { LANG = "C", PATH = "/opt/bin" }
reads_state_formats = [1, 2]

[profile."old-1.0"]
command = ["/usr/bin/vmm-1.0"]
enabled = false
)";

TEST(ParseConfig, ReadsEveryKey) {
  absl::StatusOr<DaemonConfig> config = ParseConfig(kFullFile, "c.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->state_directory, "/srv/rehome");
  EXPECT_EQ(config->api_socket, "/run/r/api.sock");
  EXPECT_EQ(config->agent_socket, "/run/r/agent.sock");
  EXPECT_THAT(config->api_peers.uids, ElementsAre(0u, 1000u));
  EXPECT_THAT(config->api_peers.gids, ElementsAre(27u));
  EXPECT_THAT(config->agent_peers.uids, ElementsAre(107u));
  EXPECT_THAT(config->agent_peers.gids, IsEmpty());
  EXPECT_EQ(config->kernel, KernelBackend::kSim);
  EXPECT_EQ(config->link_ioctl, 0xd5u);
  EXPECT_EQ(config->metrics_listen, "127.0.0.1:9464");
  EXPECT_EQ(config->concurrent_migrations, 3u);
  EXPECT_EQ(config->handover_timeout, milliseconds(40));
  EXPECT_EQ(config->resolve_timeout, milliseconds(700));
  EXPECT_EQ(config->deadline, milliseconds(60000));
  EXPECT_EQ(config->timeouts.agent, milliseconds(1500));
  EXPECT_EQ(config->timeouts.first_run, milliseconds(3000));
  EXPECT_EQ(config->timeouts.release, milliseconds(250));
  EXPECT_EQ(config->timeouts.exit, milliseconds(20000));
  EXPECT_EQ(config->log_level, LogLevel::kWarning);
  EXPECT_FALSE(config->trace);

  ASSERT_EQ(config->profiles.size(), 2u);
  const VmmProfile& next = config->profiles.at("next");
  EXPECT_EQ(next.name, "next");
  EXPECT_THAT(next.command, ElementsAre("/usr/bin/vmm", "--incoming"));
  EXPECT_EQ(next.environment.at("LANG"), "C");
  EXPECT_EQ(next.environment.at("PATH"), "/opt/bin");
  EXPECT_THAT(next.reads_state_formats, ElementsAre(1u, 2u));
  EXPECT_TRUE(next.enabled);
  EXPECT_FALSE(config->profiles.at("old-1.0").enabled);
}

TEST(ParseConfig, WhatTheParserAssertsIsAnErrorOfTheFile) {
  for (const char* text : {"[=]", "[.]", "[[=]]", "\n[\x1e", "[daemon]\n[\x01", "\u00e9 = 1"}) {
    EXPECT_EQ(ReasonOf(ParseConfig(text, "c.toml").status()), "CONFIG_INVALID") << text;
  }
}

TEST(ParseConfig, AnEmptyFileMeansTheDefaults) {
  absl::StatusOr<DaemonConfig> config = ParseConfig("", "c.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->state_directory, "/var/lib/rehome");
  EXPECT_EQ(config->api_socket, "/run/rehome/api.sock");
  EXPECT_EQ(config->agent_socket, "/run/rehome/agent.sock");
  EXPECT_THAT(config->api_peers.uids, ElementsAre(geteuid()));
  EXPECT_THAT(config->agent_peers.uids, ElementsAre(geteuid()));
  EXPECT_THAT(config->api_peers.gids, IsEmpty());
  EXPECT_EQ(config->kernel, KernelBackend::kKvm);
  EXPECT_EQ(config->link_ioctl, 0xd6u);
  EXPECT_EQ(config->concurrent_migrations, kDefaultConcurrentMigrations);
  EXPECT_EQ(config->handover_timeout, kDefaultHandoverTimeout);
  EXPECT_EQ(config->resolve_timeout, kDefaultResolveTimeout);
  EXPECT_EQ(config->deadline, kDefaultDeadline);
  EXPECT_EQ(config->timeouts.release, EffectTimeouts().release);
  EXPECT_EQ(config->log_level, LogLevel::kInfo);
  EXPECT_TRUE(config->trace);
  EXPECT_THAT(config->profiles, IsEmpty());
}

// Every kind of mistake, and the place and key that its message must name.
struct Mistake {
  const char* name;
  const char* text;
  const char* place_and_key;
  const char* what;
};

class ParseConfigMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(ParseConfigMistakes, NamesFileLineColumnAndKey) {
  absl::StatusOr<DaemonConfig> config = ParseConfig(GetParam().text, "c.toml");
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(config.status()), "CONFIG_INVALID");
  const std::string message(config.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().place_and_key));
  EXPECT_THAT(message, HasSubstr(GetParam().what));
}

const Mistake kMistakes[] = {
    {"Syntax", "[daemon]\nkernel = = 1\n", "c.toml:2:10: ", "Error"},
    {"UnknownSection", "[demon]\n", "c.toml:1:2: demon: ", "known here: daemon, metrics, profile"},
    {"UnknownDaemonKey", "[daemon]\nkernl = \"kvm\"\n",
     "c.toml:2:1: daemon.kernl: ", "unknown key"},
    {"UnknownProfileKey", "[profile.a]\ncommand = [\"/a\"]\nenable = true\n",
     "c.toml:3:1: profile.a.enable: ", "known here: command"},
    {"DaemonIsNoTable", "daemon = 1\n", "c.toml:1:10: daemon: ", "must be a table"},
    {"ProfileIsNoTable", "profile = [1]\n", "c.toml:1:11: profile: ", "must be a table"},
    {"OneProfileIsNoTable", "[profile]\na = 1\n", "c.toml:2:5: profile.a: ", "must be a table"},
    {"DuplicateKey", "[daemon]\nkernel = \"kvm\"\nkernel = \"sim\"\n", "c.toml:3:", "kernel"},
    {"DuplicateProfile", "[profile.a]\ncommand = [\"/a\"]\n[profile.a]\ncommand = [\"/b\"]\n",
     "c.toml:3:", "profile.a"},
    {"StringExpected", "[daemon]\nstate_directory = 7\n",
     "c.toml:2:19: daemon.state_directory: ", "is of type integer, must be a string"},
    {"IntegerExpected", "[daemon]\ndeadline_ms = \"60s\"\n",
     "c.toml:2:15: daemon.deadline_ms: ", "must be an integer"},
    {"FloatIsNoInteger", "[daemon]\ndeadline_ms = 2000.0\n",
     "c.toml:2:15: daemon.deadline_ms: ", "must be an integer"},
    {"BoolExpected", "[profile.a]\ncommand = [\"/a\"]\nenabled = 1\n",
     "c.toml:3:11: profile.a.enabled: ", "must be true or false"},
    {"ArrayExpected", "[daemon]\napi_allowed_uids = 0\n",
     "c.toml:2:20: daemon.api_allowed_uids: ", "must be an array"},
    {"RelativePath", "[daemon]\nstate_directory = \"var\"\n",
     "c.toml:2:19: daemon.state_directory: ", "not an absolute path"},
    {"EmptyPath", "[daemon]\nagent_socket = \"\"\n",
     "c.toml:2:16: daemon.agent_socket: ", "is empty"},
    {"SameSockets", "[daemon]\napi_socket = \"/s\"\nagent_socket = \"/s\"\n",
     "c.toml:3:16: daemon.agent_socket: ", "same path"},
    {"UnknownKernel", "[daemon]\nkernel = \"xen\"\n",
     "c.toml:2:10: daemon.kernel: ", "none of \"kvm\", \"sim\""},
    {"UnknownLogLevel", "[daemon]\nlog_level = \"loud\"\n",
     "c.toml:2:13: daemon.log_level: ", "\"debug\""},
    {"LinkIoctlTooBig", "[daemon]\nlink_ioctl = 256\n",
     "c.toml:2:14: daemon.link_ioctl: ", "0 to 255"},
    {"NoConcurrency", "[daemon]\nconcurrent_migrations = 0\n",
     "c.toml:2:25: daemon.concurrent_migrations: ", "1 to 64"},
    {"HandoverTimeoutZero", "[daemon]\nhandover_timeout_ms = 0\n",
     "c.toml:2:23: daemon.handover_timeout_ms: ", "1 to 10000"},
    {"ResolveTimeoutTooShort", "[daemon]\nresolve_timeout_ms = 9\n",
     "c.toml:2:22: daemon.resolve_timeout_ms: ", "10 to 60000"},
    {"ReleaseTimeoutTooShort", "[daemon]\nrelease_timeout_ms = 9\n",
     "c.toml:2:22: daemon.release_timeout_ms: ", "10 to 600000"},
    {"DeadlineTooLong", "[daemon]\ndeadline_ms = 3600001\n",
     "c.toml:2:15: daemon.deadline_ms: ", "1000 to 3600000"},
    {"NegativeUid", "[daemon]\nagent_allowed_uids = [0, -1]\n",
     "c.toml:2:26: daemon.agent_allowed_uids: ", "-1 is out of range"},
    {"UidOfNobodyEver", "[daemon]\napi_allowed_gids = [4294967295]\n",
     "c.toml:2:21: daemon.api_allowed_gids: ", "out of range"},
    {"UidTwice", "[daemon]\napi_allowed_uids = [5, 5]\n",
     "c.toml:2:24: daemon.api_allowed_uids: ", "5 is listed twice"},
    {"MetricsForTheWorld", "[metrics]\nlisten = \"0.0.0.0:9464\"\n",
     "c.toml:2:10: metrics.listen: ", "is not 127.0.0.1:PORT"},
    {"MetricsWithoutPort", "[metrics]\nlisten = \"127.0.0.1:\"\n",
     "c.toml:2:10: metrics.listen: ", "is not 127.0.0.1:PORT"},
    {"MetricsPortTooBig", "[metrics]\nlisten = \"[::1]:65536\"\n",
     "c.toml:2:10: metrics.listen: ", "is not 127.0.0.1:PORT"},
    {"MetricsMoreThanAnAddress", "[metrics]\nlisten = \"127.0.0.1:80,0.0.0.0:80\"\n",
     "c.toml:2:10: metrics.listen: ", "is not 127.0.0.1:PORT"},
    {"NoCommand", "[profile.a]\nenabled = true\n", "c.toml:1:1: profile.a.command: ", "is missing"},
    {"EmptyCommand", "[profile.a]\ncommand = []\n", "c.toml:2:11: profile.a.command: ", "is empty"},
    {"RelativeCommand", "[profile.a]\ncommand = [\"vmm\"]\n",
     "c.toml:2:11: profile.a.command: ", "\"vmm\" is not an absolute path"},
    {"CommandIsNoArray", "[profile.a]\ncommand = \"/bin/vmm -x\"\n",
     "c.toml:2:11: profile.a.command: ", "must be an array"},
    {"ArgumentIsNoString", "[profile.a]\ncommand = [\"/a\", 4]\n",
     "c.toml:2:18: profile.a.command: ", "must be a string"},
    {"NulInArgument", "[profile.a]\ncommand = [\"/a\", \"b\\u0000c\"]\n",
     "c.toml:2:18: profile.a.command: ", "NUL"},
    {"EnvironmentIsNoTable", "[profile.a]\ncommand = [\"/a\"]\nenvironment = [\"A=1\"]\n",
     "c.toml:3:15: profile.a.environment: ", "must be a table"},
    {"VariableIsNoString", "[profile.a]\ncommand = [\"/a\"]\n[profile.a.environment]\nA = 1\n",
     "c.toml:4:5: profile.a.environment.A: ", "must be a string"},
    {"BadVariableName",
     "[profile.a]\ncommand = [\"/a\"]\n[profile.a.environment]\n\"A=B\" = \"1\"\n",
     "c.toml:4:1: profile.a.environment.A=B: ", "no name"},
    {"ReservedVariable",
     "[profile.a]\ncommand = [\"/a\"]\n[profile.a.environment]\nREHOME_AGENT_FD = \"9\"\n",
     "c.toml:4:1: profile.a.environment.REHOME_AGENT_FD: ", "REHOME_"},
    {"StateFormatZero", "[profile.a]\ncommand = [\"/a\"]\nreads_state_formats = [0]\n",
     "c.toml:3:24: profile.a.reads_state_formats: ", "1 to 65535"},
    {"ProfileName", "[profile.\"a b\"]\ncommand = [\"/a\"]\n",
     "c.toml:1:10: profile.a b: ", "a profile's name"},
};

INSTANTIATE_TEST_SUITE_P(All, ParseConfigMistakes, testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ParseConfig, ReportsSeveralMistakesAtOnce) {
  absl::StatusOr<DaemonConfig> config =
      ParseConfig("[daemon]\nkernel = \"xen\"\ndeadline_ms = 1\n[profile.a]\n", "c.toml");
  ASSERT_FALSE(config.ok());
  const std::string message(config.status().message());
  EXPECT_THAT(message, HasSubstr("c.toml:2:10: daemon.kernel"));
  EXPECT_THAT(message, HasSubstr("c.toml:3:15: daemon.deadline_ms"));
  EXPECT_THAT(message, HasSubstr("c.toml:4:1: profile.a.command"));
}

TEST(ParseConfig, BoundsTheNumberOfReportedMistakes) {
  std::string text = "[daemon]\n";
  for (size_t i = 0; i < kMaxConfigErrors + 5; ++i) absl::StrAppend(&text, "x", i, " = 1\n");
  absl::StatusOr<DaemonConfig> config = ParseConfig(text, "c.toml");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("and 5 more"));
}

TEST(ParseConfig, BoundsListsNamesAndTheFile) {
  const std::string long_path(kMaxSocketPathLength + 1, 'a');
  EXPECT_THAT(
      std::string(ParseConfig(absl::StrCat("[daemon]\nagent_socket = \"/", long_path, "\"\n"), "c")
                      .status()
                      .message()),
      HasSubstr("c:2:16: daemon.agent_socket: is 109 bytes long, at most 107"));

  std::string many_arguments = "[profile.a]\ncommand = [";
  for (size_t i = 0; i <= kMaxCommandArguments; ++i) absl::StrAppend(&many_arguments, "\"/a\",");
  EXPECT_THAT(std::string(ParseConfig(absl::StrCat(many_arguments, "]\n"), "c").status().message()),
              HasSubstr("profile.a.command: has 257 entries, at most 256"));

  std::string many_profiles;
  for (size_t i = 0; i <= kMaxProfiles; ++i) {
    absl::StrAppend(&many_profiles, "[profile.p", i, "]\ncommand = [\"/a\"]\n");
  }
  EXPECT_THAT(std::string(ParseConfig(many_profiles, "c").status().message()),
              HasSubstr("257 profiles, at most 256"));

  EXPECT_THAT(
      std::string(ParseConfig(std::string(kMaxConfigBytes + 1, '#'), "c").status().message()),
      HasSubstr("bytes long, at most"));
}

TEST(LoadConfig, ReadsAFileAndNamesItInErrors) {
  const std::string path = testing::TempDir() + "/config_test.toml";
  std::ofstream(path) << "[daemon]\nkernel = \"sim\"\n";
  absl::StatusOr<DaemonConfig> config = LoadConfig(path);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kernel, KernelBackend::kSim);

  std::ofstream(path) << "[daemon]\nkernel = 1\n";
  EXPECT_THAT(std::string(LoadConfig(path).status().message()),
              HasSubstr(path + ":2:10: daemon.kernel"));
  unlink(path.c_str());
}

TEST(LoadConfig, TellsAMissingFileFromAnUnreadableOne) {
  const absl::Status missing = LoadConfig("/nonexistent/rehomed.toml").status();
  EXPECT_EQ(ReasonOf(missing), "CONFIG_NOT_FOUND");
  const absl::Status directory = LoadConfig("/").status();
  EXPECT_EQ(ReasonOf(directory), "CONFIG_UNREADABLE");
  EXPECT_THAT(std::string(directory.message()), HasSubstr("Is a directory"));
}

}  // namespace
}  // namespace rehome
