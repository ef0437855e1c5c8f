// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C, with the real program: `rehome` as a process that gets SIGINT while it waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <string>

#include "client/cli/exit_code.h"
#include "client/testing/fake_daemon.h"
#include "client/testing/fake_fleet.h"
#include "client/testing/program.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {
namespace {

using ::testing::HasSubstr;
using testing::Program;

void ExpectExit(int status, ExitCode code) {
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(code));
}

TEST(DetachTest, InterruptLeavesTheMigrationAloneAndSaysHowToComeBack) {
  const testing::TempSocket socket;
  testing::FakeDaemon daemon(socket.path());
  daemon.SetHistory(testing::SampleHistory());
  daemon.HoldBefore(3);
  Program program({"--socket", socket.path(), "migrate", "web-1", "--to", "vmm-2"});
  ASSERT_TRUE(daemon.AwaitHeld());
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kDetached);
  EXPECT_THAT(program.written(), HasSubstr("Detached; the migration goes on"));
  EXPECT_THAT(program.written(), HasSubstr("rehome migration watch m-0123456789abcdef"));
  EXPECT_THAT(program.written(), HasSubstr("rehome migration cancel m-0123456789abcdef"));
  EXPECT_EQ(daemon.cancelled(), 0u) << "to stop is another command";
}

class FleetInterruptTest : public ::testing::Test {
 protected:
  FleetInterruptTest() : daemon_(socket_.path()) {
    daemon_.AddVms(9);
    daemon_.Hold("");
  }
  std::vector<std::string> Command() const {
    return {"--socket", socket_.path(), "migrate", "--all", "--to", "vmm-2", "--concurrency", "2"};
  }

  const testing::TempSocket socket_;
  testing::FakeFleet daemon_;
};

TEST_F(FleetInterruptTest, TheFirstStartsNoMoreAndWaitsForThoseUnderWay) {
  Program program(Command());
  ASSERT_TRUE(daemon_.AwaitUnderWay(2));
  program.Interrupt();
  ASSERT_TRUE(program.AwaitText("starting no more"));
  daemon_.Release("");
  ExpectExit(program.Wait(), ExitCode::kIncomplete);
  EXPECT_THAT(program.written(), HasSubstr("7 not started; the same command again continues"));
  EXPECT_EQ(daemon_.started().size(), 2u);

  Program again(Command());
  ExpectExit(again.Wait(), ExitCode::kOk);
  EXPECT_THAT(again.written(), HasSubstr("7 to move, 2 already there"));
  EXPECT_EQ(daemon_.started().size(), 9u) << "none twice";
}

TEST_F(FleetInterruptTest, TheSecondLeavesThemToTheDaemonAndTheNextRunJoinsThem) {
  Program program(Command());
  ASSERT_TRUE(daemon_.AwaitWatched(2));
  program.Interrupt();
  ASSERT_TRUE(program.AwaitText("starting no more"));
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kDetached);
  EXPECT_THAT(program.written(), HasSubstr("rehome migration watch m-0"));
  EXPECT_THAT(program.written(), HasSubstr("rehome migration watch m-1"));

  Program again(Command());
  ASSERT_TRUE(again.AwaitText("2 under way"));
  daemon_.Release("");
  ExpectExit(again.Wait(), ExitCode::kOk);
  EXPECT_THAT(again.written(), HasSubstr("(joined)"));
  EXPECT_EQ(daemon_.started().size(), 9u) << "none twice";
}

TEST_F(FleetInterruptTest, WhileItPlansOneIsEnoughAndNothingIsStarted) {
  daemon_.HoldCalls(testing::FakeFleet::Call::kList);
  Program program(Command());
  ASSERT_TRUE(daemon_.AwaitHeldCalls(testing::FakeFleet::Call::kList, 1));
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kIncomplete);
  EXPECT_THAT(program.written(), HasSubstr("stopped before anything was started"));
  EXPECT_EQ(daemon_.asked(), 0u);
}

TEST_F(FleetInterruptTest, WhileItPlansJsonEndsWithItsSummary) {
  daemon_.HoldCalls(testing::FakeFleet::Call::kList);
  std::vector<std::string> command = Command();
  command.push_back("--json");
  Program program(command);
  ASSERT_TRUE(daemon_.AwaitHeldCalls(testing::FakeFleet::Call::kList, 1));
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kIncomplete);
  EXPECT_THAT(program.written(), ::testing::StartsWith(R"({"event":"summary")"));
  EXPECT_THAT(program.written(), HasSubstr(R"("exitCode":9})"));
}

TEST_F(FleetInterruptTest, TwiceInADryRunLeavesNothingUnderWay) {
  daemon_.HoldCalls(testing::FakeFleet::Call::kCheck);
  std::vector<std::string> command = Command();
  command.push_back("--dry-run");
  Program program(command);
  ASSERT_TRUE(daemon_.AwaitHeldCalls(testing::FakeFleet::Call::kCheck, 2));
  program.Interrupt();
  ASSERT_TRUE(program.AwaitText("starting no more"));
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kIncomplete);
  EXPECT_THAT(program.written(), HasSubstr("not checked"));
  EXPECT_THAT(program.written(), ::testing::Not(HasSubstr("migration watch")));
}

TEST_F(FleetInterruptTest, InJsonEachThatWasStartedHasAnEndAlsoWhenItIsLeft) {
  for (int i = 0; i < 9; ++i) daemon_.Hold("vm-" + std::to_string(i));
  daemon_.Release("");
  std::vector<std::string> command = Command();
  command.push_back("--json");
  Program program(command);
  ASSERT_TRUE(daemon_.AwaitWatched(2));
  daemon_.Release("vm-0");
  ASSERT_TRUE(program.AwaitText(R"("event":"finished","vm":"vm-0")"));
  ASSERT_TRUE(daemon_.AwaitWatched(3));
  program.Interrupt();
  ASSERT_TRUE(program.AwaitText(R"("event":"stopping")"));
  program.Interrupt();
  ExpectExit(program.Wait(), ExitCode::kDetached);
  EXPECT_THAT(program.written(), HasSubstr(R"({"event":"detached","vm":"vm-1","migration":"m-)"));
  EXPECT_THAT(program.written(), HasSubstr(R"({"event":"detached","vm":"vm-2","migration":"m-)"));
  EXPECT_LT(program.written().rfind("detached"), program.written().find("summary"));
}

}  // namespace
}  // namespace rehome
