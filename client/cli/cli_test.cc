// SPDX-License-Identifier: Apache-2.0
//
// The program as a user meets it: command line in, text and exit code out, against a daemon that
// answers from a script. golden/*.txt show what is expected; a difference prints the whole new
// text.
#include "client/cli/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/testing/fake_daemon.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"
#include "nlohmann/json.hpp"

namespace rehome {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class CliTest : public ::testing::Test {
 protected:
  CliTest() : daemon_(socket_.path()) {
    daemon_.SetHost(testing::SampleHost());
    daemon_.SetVms({testing::SampleVm()});
    daemon_.SetHistory(testing::SampleHistory());
  }

  Result Run(const std::vector<std::string>& arguments, bool color = false) {
    std::vector<std::string> all = {"rehome", "--socket", socket_.path()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<const char*> argv;
    for (const std::string& argument : all) argv.push_back(argument.c_str());
    std::ostringstream out;
    std::ostringstream err;
    const int exit_code = RunCli(static_cast<int>(argv.size()), argv.data(),
                                 Console{.out = out, .err = err, .color = color});
    return Result{.exit_code = exit_code, .out = out.str(), .err = err.str()};
  }

  // The migration that starts as usual and ends so.
  void EndsWith(const v1::Migration& last, size_t begin = 4) {
    std::vector<v1::Migration> history = testing::SampleHistory();
    history.resize(begin);
    history.push_back(last);
    daemon_.SetHistory(history);
  }

  // Compares with golden/NAME.txt.
  void ExpectGolden(const std::string& name, const std::vector<std::string>& arguments) {
    const Result result = Run(arguments);
    std::string transcript = "$ rehome";
    for (const std::string& argument : arguments) transcript += " " + argument;
    transcript += "\n" + result.out;
    if (!result.err.empty()) transcript += "--- stderr\n" + result.err;
    transcript += "--- exit " + std::to_string(result.exit_code) + "\n";
    std::ifstream file("client/cli/golden/" + name + ".txt");
    std::ostringstream expected;
    expected << file.rdbuf();
    EXPECT_EQ(transcript, expected.str()) << "golden/" << name << ".txt should be:\n" << transcript;
  }

  const testing::TempSocket socket_;
  testing::FakeDaemon daemon_;
};

TEST_F(CliTest, ListsVms) {
  v1::VirtualMachine other = testing::SampleVm();
  other.set_name("virtualMachines/database-main");
  other.set_vm_type(v1::SEV_ES);
  other.set_vcpu_count(16);
  other.set_memory_bytes(24LL << 30);
  other.set_active_migration("migrations/m-0123456789abcdef");
  daemon_.SetVms({testing::SampleVm(), other});
  ExpectGolden("vm_list", {"vm", "list"});
}

TEST_F(CliTest, ListsVmsWhoseGuestIsHeldInAnUnresolvedMigration) {
  v1::Migration of_nobody = testing::IndeterminateMigration();
  of_nobody.set_name("migrations/m-00000000000000aa");
  of_nobody.set_vm("virtualMachines/web-2");
  daemon_.SetHistory({testing::IndeterminateMigration(), of_nobody, testing::LostMigration()});
  ExpectGolden("vm_list_unresolved", {"vm", "list"});
}

TEST_F(CliTest, ShowsAVm) { ExpectGolden("vm_get", {"vm", "get", "web-1"}); }

TEST_F(CliTest, ShowsTheHost) { ExpectGolden("host", {"host"}); }

TEST_F(CliTest, MigratesAndSaysWhatCameOfIt) {
  ExpectGolden("migrate_succeeded", {"migrate", "web-1", "--to", "vmm-2"});
}

TEST_F(CliTest, ProgressWaitsForThePauseToBeMeasured) {
  std::vector<v1::Migration> history = testing::SampleHistory();
  v1::Migration unmeasured = history[5];
  unmeasured.clear_blackout();
  history[5].set_revision(7);
  history[6].set_revision(8);
  history.insert(history.begin() + 5, unmeasured);
  daemon_.SetHistory(history);
  EXPECT_THAT(Run({"migrate", "web-1", "--to", "vmm-2"}).err,
              HasSubstr("ok Hand-over: guest paused for 312.4 us\n"));
}

TEST_F(CliTest, SaysWhatBlocksAMigration) {
  EndsWith(testing::BlockedMigration(), 2);
  ExpectGolden("migrate_blocked", {"migrate", "web-1", "--to", "vmm-2"});
}

TEST_F(CliTest, SaysWhyItWasRolledBack) {
  EndsWith(testing::RolledBackMigration());
  ExpectGolden("migrate_rolled_back", {"migrate", "web-1", "--to", "vmm-2"});
}

TEST_F(CliTest, SaysWhoStillHoldsTheMemory) {
  EndsWith(testing::UnprovenMigration(), 6);
  ExpectGolden("migrate_unproven", {"migrate", "web-1", "--to", "vmm-2"});
}

TEST_F(CliTest, ShowsEverythingAboutAMigration) {
  daemon_.SetHistory({testing::SampleHistory().back()});
  ExpectGolden("migration_get", {"migration", "get", "m-0123456789abcdef"});
}

TEST_F(CliTest, ShowsEverythingAboutAMigrationAsJson) {
  daemon_.SetHistory({testing::SampleHistory().back()});
  ExpectGolden("migration_get_json", {"migration", "get", "m-0123456789abcdef", "--json"});
}

TEST_F(CliTest, SaysWhatToDoAboutAnUnknownOutcome) {
  daemon_.SetHistory({testing::IndeterminateMigration()});
  ExpectGolden("migration_get_indeterminate", {"migration", "get", "m-0123456789abcdef"});
}

TEST_F(CliTest, TellsOfRescueAndRestart) {
  daemon_.SetHistory({testing::RescuedMigration()});
  ExpectGolden("migration_get_rescued", {"migration", "get", "m-0123456789abcdef"});
}

TEST_F(CliTest, ResolvesAndSaysWhatCameOfIt) {
  v1::Migration again = testing::IndeterminateMigration();
  again.set_state(v1::Migration::ROLLING_BACK);
  again.set_revision(8);
  again.clear_error();
  daemon_.SetHistory({testing::IndeterminateMigration(), again, testing::RescuedMigration()});
  ExpectGolden("migration_resolve", {"migration", "resolve", "m-0123456789abcdef"});
  EXPECT_EQ(daemon_.resolved(), 1u);
}

TEST_F(CliTest, AMigrationThatStaysIndeterminateExitsWithFive) {
  v1::Migration still = testing::IndeterminateMigration();
  still.set_revision(9);
  daemon_.SetHistory({testing::IndeterminateMigration(), still});
  const Result result = Run({"migration", "resolve", "m-0123456789abcdef", "--json"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kIndeterminate));
  EXPECT_EQ(Json::parse(result.out)["state"], "INDETERMINATE");
}

TEST_F(CliTest, ResolveIsTriedOnceBecauseALostAnswerMayHaveWorked) {
  daemon_.FailNext({testing::SampleError(grpc::StatusCode::UNAVAILABLE, "RECOVERING", "not yet")});
  EXPECT_EQ(Run({"migration", "resolve", "m-0123456789abcdef"}).exit_code,
            static_cast<int>(ExitCode::kUnreachable));
  EXPECT_EQ(daemon_.resolved(), 1u);
}

TEST_F(CliTest, ResolveDetachedPrintsTheIdAlone) {
  const Result result = Run({"migration", "resolve", "m-0123456789abcdef", "--detach"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "m-0123456789abcdef\n");
  EXPECT_TRUE(daemon_.watched().empty());
}

TEST_F(CliTest, AVmThatIsUnresolvedSaysWhichMigrationIsInTheWay) {
  daemon_.FailNext({testing::SampleError(grpc::StatusCode::FAILED_PRECONDITION,
                                         "MIGRATION_UNRESOLVED", "m-1 has to be resolved first")});
  EXPECT_THAT(Run({"migrate", "web-1", "--to", "vmm-2"}).err,
              HasSubstr("rehome migration resolve ID goes on with it"));
}

TEST_F(CliTest, ShowsAnErrorAsJson) {
  daemon_.FailNext({testing::SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "no web-1")});
  ExpectGolden("error_json", {"vm", "get", "web-1", "--json"});
}

TEST_F(CliTest, ListsMigrations) { ExpectGolden("migration_list", {"migration", "list"}); }

TEST_F(CliTest, DryRunShowsEachCheck) {
  v1::Migration checked = testing::BlockedMigration();
  checked.clear_name();
  daemon_.SetHistory({checked});
  ExpectGolden("dry_run_blocked", {"migrate", "web-1", "--to", "vmm-2", "--dry-run"});
  EXPECT_TRUE(daemon_.created().at(0).validate_only());
}

TEST_F(CliTest, EachEndOfAMigrationHasItsExitCode) {
  const std::pair<v1::Migration, ExitCode> ends[] = {
      {testing::SampleHistory().back(), ExitCode::kOk},
      {testing::BlockedMigration(), ExitCode::kBlocked},
      {testing::RolledBackMigration(), ExitCode::kRolledBack},
      {testing::CancelledMigration(), ExitCode::kRolledBack},
      {testing::IndeterminateMigration(), ExitCode::kIndeterminate},
      {testing::LostMigration(), ExitCode::kGuestLost},
      {testing::UnprovenMigration(), ExitCode::kError},
  };
  for (const auto& [last, exit_code] : ends) {
    EndsWith(last);
    const Result result = Run({"migration", "watch", "m-0123456789abcdef"});
    EXPECT_EQ(result.exit_code, static_cast<int>(exit_code)) << result.out;
    EXPECT_NE(result.out, "");
  }
}

TEST_F(CliTest, RequestCarriesTheOptions) {
  Run({"migrate", "web-1", "--to", "vmm-2", "--detach", "--deadline", "90s", "--handover-timeout",
       "250ms", "--fence", "after-resume", "--request-id", "mine"});
  const v1::CreateMigrationRequest request = daemon_.created().at(0);
  EXPECT_EQ(request.vm(), "virtualMachines/web-1");
  EXPECT_EQ(request.target_profile(), "vmm-2");
  EXPECT_EQ(request.request_id(), "mine");
  EXPECT_EQ(request.deadline().seconds(), 90);
  EXPECT_EQ(request.handover_timeout().nanos(), 250'000'000);
  EXPECT_EQ(request.fence_policy(), v1::Migration::AFTER_RESUME);
}

TEST_F(CliTest, DetachPrintsTheIdAlone) {
  const Result result = Run({"migrate", "web-1", "--to", "vmm-2", "--detach"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "m-0123456789abcdef\n");
  EXPECT_TRUE(daemon_.watched().empty());
}

TEST_F(CliTest, TimeoutDetachesAndSaysHowToComeBack) {
  daemon_.HoldBefore(3);
  const Result result = Run({"migrate", "web-1", "--to", "vmm-2", "--timeout", "200ms"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kDetached));
  EXPECT_THAT(result.err, HasSubstr("rehome migration watch m-0123456789abcdef"));
}

TEST_F(CliTest, FilterIsBuiltFromOptions) {
  Run({"migration", "list", "--vm", "web-1", "--state", "handing-over"});
  EXPECT_EQ(daemon_.listed().at(0).filter(), R"(vm = "web-1" AND state = "HANDING_OVER")");
}

TEST_F(CliTest, ListGoesOnOverPagesUpToTheLimit) {
  const Result all = Run({"migration", "list", "--limit", "1000", "--json"});
  EXPECT_EQ(Json::parse(all.out)["migrations"].size(), 7u);
  const Result some = Run({"migration", "list", "--limit", "3"});
  EXPECT_THAT(some.err, HasSubstr("--limit shows more"));
}

TEST_F(CliTest, JsonIsOneObjectOnOneLine) {
  const std::vector<std::vector<std::string>> commands = {
      {"vm", "list"},
      {"vm", "get", "web-1"},
      {"host"},
      {"migrate", "web-1", "--to", "vmm-2"},
      {"migration", "list"},
      {"migration", "get", "m-0123456789abcdef"},
      {"migration", "cancel", "m-0123456789abcdef"},
  };
  for (std::vector<std::string> command : commands) {
    command.emplace_back("--json");
    const Result result = Run(command);
    EXPECT_EQ(result.exit_code, 0) << command[0];
    EXPECT_EQ(result.err, "") << command[0];
    EXPECT_EQ(result.out.find('\n'), result.out.size() - 1) << result.out;
    EXPECT_TRUE(Json::parse(result.out, nullptr, false).is_object()) << result.out;
  }
}

TEST_F(CliTest, JsonNamesAreTheApis) {
  const Json migration = Json::parse(Run({"migrate", "web-1", "--to", "vmm-2", "--json"}).out);
  EXPECT_EQ(migration["state"], "SUCCEEDED");
  EXPECT_EQ(migration["guestOwner"], "TARGET");
  EXPECT_EQ(migration["blackout"]["totalNs"], "312400") << "64-bit numbers are strings";
  EXPECT_EQ(migration["fenceProof"]["complete"], true);
  EXPECT_FALSE(migration.contains("journalError")) << "messages that are not set are left out";
  EXPECT_EQ(migration["cancelRequested"], false) << "defaults are written out";
}

TEST_F(CliTest, JsonOfAFailedMigrationHasItsReason) {
  EndsWith(testing::RolledBackMigration());
  const Result result = Run({"migrate", "web-1", "--to", "vmm-2", "--json"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kRolledBack));
  EXPECT_EQ(Json::parse(result.out)["error"]["details"][0]["reason"], "AGENT_REFUSED_STATE_FORMAT");
}

TEST_F(CliTest, ErrorsAreJsonToo) {
  daemon_.FailNext({testing::SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "no web-1")});
  const Result result = Run({"vm", "get", "web-1", "--json"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kError));
  const Json error = Json::parse(result.out)["error"];
  EXPECT_EQ(error["code"], "NOT_FOUND");
  EXPECT_EQ(error["reason"], "VM_NOT_FOUND");
  EXPECT_EQ(error["message"], "no web-1");
  EXPECT_EQ(error["metadata"]["vm"], "web-1");
}

TEST_F(CliTest, ErrorsInWordsSayWhatToTry) {
  daemon_.FailNext({testing::SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "no web-1")});
  const Result result = Run({"migrate", "web-1", "--to", "vmm-2"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kError));
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err,
            "rehome: no web-1 (VM_NOT_FOUND)\n"
            "  rehome vm list shows the virtual machines of this host\n");
}

TEST_F(CliTest, NoDaemonHasAnExitCodeOfItsOwn) {
  const Result result = Run({"host", "--socket", socket_.directory() + "/nobody"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kUnreachable));
  EXPECT_THAT(result.err, HasSubstr("No such file or directory (DAEMON_UNREACHABLE)"));
}

TEST_F(CliTest, WrongUsageSendsNothing) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"vm"},
      {"vm", "get"},
      {"migrate", "web-1"},
      {"migrate", "--to", "vmm-2"},
      {"migrate", "web-1", "--to", "vmm-2", "--keep-going"},
      {"migrate", "web-1", "--to", "vmm-2", "--wait", "--detach"},
      {"migrate", "web-1", "--to", "vmm-2", "--deadline", "soon"},
      {"migrate", "web-1", "--to", "vmm-2", "--fence", "never"},
      {"migration", "list", "--limit", "0"},
      {"frobnicate"},
  };
  for (const auto& arguments : wrong) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::kUsage)) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err, "");
  }
  EXPECT_TRUE(daemon_.created().empty());
  EXPECT_TRUE(daemon_.listed().empty());
}

TEST_F(CliTest, HelpAndVersionSucceed) {
  EXPECT_EQ(Run({"--version"}).out, "rehome 0.1.0\n");
  for (const auto& command :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"vm", "--help"},
                                             {"migrate", "--help"},
                                             {"migration", "watch", "--help"},
                                             {"migration", "resolve", "--help"}}) {
    const Result result = Run(command);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, HasSubstr("Usage:"));
  }
  EXPECT_THAT(Run({"migrate", "--help"}).out, HasSubstr("Exit codes:"));
}

TEST_F(CliTest, ColorsOnlyWhereTheyAreWanted) {
  const std::vector<std::string> command = {"migration", "get", "m-0123456789abcdef"};
  EXPECT_THAT(Run(command, /*color=*/false).out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(Run(command, /*color=*/true).out, HasSubstr("\x1b[1m"));
}

TEST_F(CliTest, TextFromTheDaemonCannotDriveTheTerminal) {
  v1::VirtualMachine vm = testing::SampleVm();
  vm.mutable_process()->set_vmm("evil\x1b[2J\nvmm");
  daemon_.SetVms({vm});
  const Result result = Run({"vm", "list"});
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(result.out, HasSubstr("evil [2J vmm"));
}

}  // namespace
}  // namespace rehome
