// SPDX-License-Identifier: Apache-2.0
//
// rehome migrate --all as its user meets it, against a daemon with many virtual machines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "client/cli/cli.h"
#include "client/cli/exit_code.h"
#include "client/testing/fake_fleet.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"
#include "nlohmann/json.hpp"

namespace rehome {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class FleetCliTest : public ::testing::Test {
 protected:
  FleetCliTest() : daemon_(socket_.path()) { daemon_.AddVms(6); }

  ExitCode Run(const std::vector<std::string>& more, bool terminal = false) {
    std::vector<std::string> all = {"rehome", "--socket", socket_.path(),  "migrate", "--all",
                                    "--to",   "vmm-2",    "--concurrency", "1"};
    all.insert(all.end(), more.begin(), more.end());
    std::vector<const char*> argv;
    for (const std::string& argument : all) argv.push_back(argument.c_str());
    out_.str("");
    err_.str("");
    return static_cast<ExitCode>(
        RunCli(static_cast<int>(argv.size()), argv.data(),
               Console{.out = out_, .err = err_, .err_is_terminal = terminal}));
  }
  std::vector<Json> Events() const {
    std::vector<Json> events;
    std::istringstream lines(out_.str());
    for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
    return events;
  }

  const testing::TempSocket socket_;
  testing::FakeFleet daemon_;
  std::ostringstream out_, err_;
};

TEST_F(FleetCliTest, ALineForEachAndASummary) {
  EXPECT_EQ(Run({}), ExitCode::kOk);
  EXPECT_THAT(err_.str(), HasSubstr("6 virtual machines to profile vmm-2: 6 to move; 1 at a time\n"
                                    "ok vm-0  m-0  paused for 312.4 us\n"));
  EXPECT_THAT(out_.str(), HasSubstr("moved  6  blackout p50 312.4 us, max 312.4 us\n"));
  EXPECT_THAT(out_.str(), ContainsRegex("time  [0-9.]+ "));
  EXPECT_THAT(out_.str(), Not(HasSubstr("failed")));

  EXPECT_EQ(Run({}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("already there  6"));
}

TEST_F(FleetCliTest, AFailureIsNamedWithWhatItMeansForTheGuest) {
  daemon_.EndWith("vm-2", {testing::RolledBackMigration()});
  EXPECT_EQ(Run({}), ExitCode::kRolledBack);
  EXPECT_THAT(err_.str(), ContainsRegex("FAILED vm-2  m-2  .*AGENT_REFUSED_STATE_FORMAT.*; the "
                                        "guest runs on the source"));
  EXPECT_THAT(out_.str(), ContainsRegex("vm-2 .*m-2 .*AGENT_REFUSED_STATE_FORMAT"));
  EXPECT_THAT(out_.str(), HasSubstr("3 not started; the same command again continues, "
                                    "--keep-going goes on past failures"));
}

TEST_F(FleetCliTest, OfSeveralFailuresTheWorstIsTheExitCode) {
  daemon_.EndWith("vm-0", {testing::BlockedMigration()});
  EXPECT_EQ(Run({"--keep-going", "--filter", "vm=vm-0"}), ExitCode::kBlocked);
  daemon_.EndWith("vm-0", {testing::BlockedMigration()});
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  EXPECT_EQ(Run({"--keep-going", "--filter", "vm=vm-[01]"}), ExitCode::kRolledBack);
  daemon_.EndWith("vm-0", {testing::BlockedMigration()});
  daemon_.EndWith("vm-2", {testing::UnprovenMigration()});
  EXPECT_EQ(Run({"--keep-going", "--filter", "vm=vm-[02]"}), ExitCode::kError);
  daemon_.EndWith("vm-0", {testing::BlockedMigration()});
  daemon_.EndWith("vm-3", {testing::IndeterminateMigration()});
  EXPECT_EQ(Run({"--keep-going", "--filter", "vm=vm-[03]"}), ExitCode::kIndeterminate);
  daemon_.EndWith("vm-4", {testing::LostMigration()});
  EXPECT_EQ(Run({"--keep-going", "--filter", "vm=vm-[034]"}), ExitCode::kGuestLost);
}

TEST_F(FleetCliTest, DryRunSaysForEachWhetherAndWhyNot) {
  daemon_.EndWith("vm-1", {testing::BlockedMigration()});
  EXPECT_EQ(Run({"--dry-run"}), ExitCode::kBlocked);
  EXPECT_THAT(err_.str(), HasSubstr("ok vm-0  can be moved\n"));
  EXPECT_THAT(out_.str(), HasSubstr("can be moved  5\n"));
  EXPECT_THAT(out_.str(), HasSubstr("refused       1\n"));
  EXPECT_THAT(out_.str(), HasSubstr("strategy_supported: sw-protected needs"));
  EXPECT_TRUE(daemon_.started().empty());
  EXPECT_EQ(Run({"--dry-run"}), ExitCode::kOk);
}

TEST_F(FleetCliTest, JsonIsOneEventPerLineAndTheSummaryIsTheLast) {
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  daemon_.RefuseNext({testing::SampleError(grpc::StatusCode::RESOURCE_EXHAUSTED, "FD_LIMIT", "")});
  EXPECT_EQ(Run({"--json", "--keep-going"}), ExitCode::kError);
  EXPECT_EQ(err_.str(), "");
  const std::vector<Json> events = Events();
  ASSERT_EQ(events.size(), 1 + 5 + 6 + 1u) << out_.str();
  EXPECT_EQ(events[0]["event"], "planned");
  EXPECT_EQ(events[0]["vms"].size(), 6u);
  EXPECT_EQ(events[0]["vms"][0]["plan"], "MOVE");
  EXPECT_EQ(events[1]["result"], "FAILED");
  EXPECT_EQ(events[1]["error"]["reason"], "FD_LIMIT");
  EXPECT_FALSE(events[1].contains("migration"));
  EXPECT_EQ(events[2]["event"], "started");
  EXPECT_EQ(events[2]["migration"], "m-0");
  EXPECT_EQ(events[3]["result"], "FAILED");
  EXPECT_EQ(events[3]["migration"]["state"], "FAILED");
  EXPECT_EQ(events[5]["result"], "MOVED");
  const Json& summary = events.back();
  EXPECT_EQ(summary["event"], "summary");
  EXPECT_EQ(summary["moved"], 4);
  EXPECT_EQ(summary["failed"], 2);
  EXPECT_EQ(summary["blackoutP50Ns"], "312400");
  EXPECT_EQ(summary["exitCode"], 1);
}

TEST_F(FleetCliTest, ErrorsOfThePlanAreOneObject) {
  EXPECT_EQ(Run({"--json", "--socket", "/nowhere"}), ExitCode::kUnreachable);
  ASSERT_EQ(Events().size(), 1u);
  EXPECT_EQ(Events()[0]["error"]["reason"], "DAEMON_UNREACHABLE");
}

TEST_F(FleetCliTest, NothingSelectedIsNoError) {
  EXPECT_EQ(Run({"--filter", "vm=db-*"}), ExitCode::kOk);
  EXPECT_EQ(err_.str(), "the filter selects no virtual machine\n");
  EXPECT_EQ(Run({"--filter", "vm=db-*", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Events().back()["event"], "summary");
}

TEST_F(FleetCliTest, OnATerminalOneLineIsRedrawnAndFailuresStay) {
  daemon_.EndWith("vm-1", {testing::RolledBackMigration()});
  EXPECT_EQ(Run({"--keep-going"}, /*terminal=*/true), ExitCode::kRolledBack);
  EXPECT_THAT(err_.str(), HasSubstr("6/6 done"));
  EXPECT_THAT(err_.str(), HasSubstr("FAILED vm-1"));
  EXPECT_THAT(err_.str(), Not(HasSubstr("ok vm-0"))) << "successes are counted";
  EXPECT_TRUE(err_.str().ends_with("\r\x1b[2K")) << "the line is gone in the end";
}

TEST_F(FleetCliTest, WrongUsageStartsNothing) {
  const std::vector<std::vector<std::string>> wrong = {
      {"web-1"},         {"--detach"},        {"--request-id", "mine"}, {"--timeout", "5s"},
      {"--filter", "x"}, {"--filter", "vm="}, {"--concurrency", "0"},   {"--concurrency", "33"},
  };
  for (const auto& arguments : wrong) {
    EXPECT_EQ(Run(arguments), ExitCode::kUsage) << arguments[0];
    EXPECT_NE(err_.str(), "");
  }
  EXPECT_EQ(daemon_.asked(), 0u);
}

}  // namespace
}  // namespace rehome
