// SPDX-License-Identifier: Apache-2.0
//
// All guests of a host move to another version of their VMM with one command (docs/fleet.md): real
// processes on the simulated kernel, `rehome` itself included.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "nlohmann/json.hpp"
#include "tests/harness/proc.h"
#include "tests/harness/process.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::ProfileOfVersion;
using v1::Migration;
using Json = nlohmann::json;

constexpr int kGuests = 50;
// Of each interruption: so many are done by then, and many are not.
constexpr size_t kSome = 5;
constexpr uint64_t kMemoryMib = 8;
// Fifty guests that step as fast as they can would leave the machine to nobody else.
constexpr char kSlowSteps[] = "--step-ns=2000000";
// The last one of the list.
constexpr char kUnmovable[] = "snp";

// Waits of a migration, for a machine that is busy with a hundred VMMs. The one for agents is also
// how long a daemon that was killed takes to serve again at most: so long it listens for a source
// that may have resumed.
std::vector<std::string> PatientDaemon() {
  return {"handover_timeout_ms = 10000", "resolve_timeout_ms = 60000", "agent_timeout_ms = 10000",
          "first_run_timeout_ms = 60000", "exit_timeout_ms = 60000"};
}

// One run of `rehome migrate --all`, by its events.
class FleetCommand {
 public:
  FleetCommand(harness::HostUnderTest& host, const std::string& name,
               const std::vector<std::string>& more)
      : log_(absl::StrCat(host.directory(), "/", name, ".events")) {
    std::vector<std::string> argv = {harness::BinaryPath("client/cli/rehome"),
                                     "--socket",
                                     host.api_socket(),
                                     "--json",
                                     "migrate",
                                     "--all",
                                     "--to",
                                     ProfileOfVersion(2)};
    argv.insert(argv.end(), more.begin(), more.end());
    absl::StatusOr<harness::Process> process =
        harness::Process::Start({.argv = argv, .log_path = log_});
    EXPECT_TRUE(process.ok()) << process.status();
    if (process.ok()) process_ = *std::move(process);
  }

  harness::Process& process() { return process_; }

  std::vector<Json> Events(const std::string& kind) const {
    std::vector<Json> events;
    std::ifstream lines(log_);
    for (std::string line; std::getline(lines, line);) {
      // The last line may be half written.
      const Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (event.is_object() && event.value("event", "") == kind) events.push_back(event);
    }
    return events;
  }
  size_t Finished() const { return Events("finished").size(); }

  void ExpectExit(ExitCode code) {
    const absl::StatusOr<int> status = process_.WaitExit(kPatience * 3);
    ASSERT_TRUE(status.ok()) << status.status() << Text();
    ASSERT_TRUE(WIFEXITED(*status)) << *status;
    EXPECT_EQ(WEXITSTATUS(*status), static_cast<int>(code)) << Text();
    const std::vector<Json> summaries = Events("summary");
    ASSERT_EQ(summaries.size(), 1u) << Text();
    summary_ = summaries.front();
  }
  int Count(const char* what) const { return summary_.value(what, -1); }

 private:
  std::string Text() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::string log_;
  harness::Process process_;
  Json summary_;
};

class FleetTest : public Scenario {
 protected:
  void StartGuests() {
    StartHost({.kernel = "sim", .daemon_lines = PatientDaemon()});
    for (int i = 0; i < kGuests - 1; ++i) ids_.push_back(absl::StrCat("guest-", i));
    ids_.push_back(kUnmovable);
    for (const std::string& id : ids_) {
      StartGuest({.vm_id = id,
                  .vm_type = id == kUnmovable ? "snp" : "default",
                  .memory_mib = kMemoryMib,
                  .arguments = {kSlowSteps}});
      ASSERT_FALSE(HasFailure());
    }
  }

  // Every guest lives, all but the one in the new version, and none was moved twice.
  void ExpectAllMovedOnce() {
    for (const std::string& id : ids_) {
      ExpectGuestLives(guest(id));
      EXPECT_EQ(harness::ExecutableName(guest(id).pid), ProfileOfVersion(id == kUnmovable ? 1 : 2))
          << id;
      v1::ListMigrationsRequest request;
      request.set_filter(absl::StrCat("vm = ", id, " AND state = SUCCEEDED"));
      const auto moves = host().client().ListMigrations(request);
      ASSERT_TRUE(moves.ok()) << moves.status();
      EXPECT_EQ(moves->migrations_size(), id == kUnmovable ? 0 : 1) << id;
    }
    ExpectNothingLeft();
  }

  std::vector<std::string> ids_;
};

TEST_F(FleetTest, FiftyGuestsMoveThoughTheCommandAndTheDaemonAreInterruptedAndOneCannot) {
  StartGuests();
  ASSERT_FALSE(HasFailure());
  const std::vector<std::string> movable = {"--filter", absl::StrCat("vm!=", kUnmovable)};

  FleetCommand checked(host(), "dry-run", {"--dry-run"});
  checked.ExpectExit(ExitCode::kBlocked);
  EXPECT_EQ(checked.Count("movable"), kGuests - 1);
  EXPECT_EQ(checked.Count("failed"), 1);

  FleetCommand interrupted(host(), "interrupted", movable);
  EXPECT_TRUE(Eventually([&] { return interrupted.Finished() >= kSome; }));
  interrupted.process().Signal(SIGINT);
  interrupted.ExpectExit(ExitCode::kIncomplete);
  const int moved = interrupted.Count("moved");
  EXPECT_GE(moved, static_cast<int>(kSome));
  EXPECT_GT(interrupted.Count("notStarted"), 0);
  EXPECT_EQ(moved + interrupted.Count("notStarted"), kGuests - 1);

  FleetCommand continued(host(), "continued", movable);
  EXPECT_TRUE(Eventually([&] { return continued.Finished() >= kSome; }));
  host().KillDaemon();
  const absl::Status restarted = host().StartDaemon();
  ASSERT_TRUE(restarted.ok()) << restarted;
  continued.ExpectExit(ExitCode::kOk);
  EXPECT_EQ(continued.Count("alreadyThere"), moved);
  EXPECT_EQ(continued.Count("moved"), kGuests - 1 - moved);

  FleetCommand failed(host(), "failed", {});
  failed.ExpectExit(ExitCode::kBlocked);
  EXPECT_EQ(failed.Count("alreadyThere"), kGuests - 1);
  EXPECT_EQ(failed.Count("failed"), 1);
  const std::vector<Json> ends = failed.Events("finished");
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0]["vm"], kUnmovable);
  EXPECT_EQ(ends[0]["migration"]["error"]["details"][0]["reason"], "SNP_REFUSED");
  ExpectAllMovedOnce();
}

TEST_F(FleetTest, AFailureKeepsTheRestAndTwoInterruptsLeaveTheRestToTheDaemon) {
  StartHost({.kernel = "sim", .daemon_lines = PatientDaemon()});
  ids_ = {"a", kUnmovable, "t", "u", "v", "w"};
  for (const std::string& id : ids_) {
    StartGuest({.vm_id = id,
                .vm_type = id == kUnmovable ? "snp" : "default",
                .memory_mib = kMemoryMib,
                .arguments = {kSlowSteps}});
    ASSERT_FALSE(HasFailure());
  }
  FleetCommand stopped(host(), "stopped", {"--concurrency", "1"});
  stopped.ExpectExit(ExitCode::kBlocked);
  EXPECT_EQ(stopped.Count("moved"), 1);
  EXPECT_EQ(stopped.Count("notStarted"), 4);

  FleetCommand left(host(), "left", {"--concurrency", "4", "--keep-going"});
  EXPECT_TRUE(Eventually([&] { return !left.Events("started").empty(); }));
  left.process().Signal(SIGINT);
  EXPECT_TRUE(Eventually([&] { return !left.Events("stopping").empty(); }));
  left.process().Signal(SIGINT);
  // However far it came in between: it ends by itself, with a summary.
  const absl::StatusOr<int> status = left.process().WaitExit(kPatience);
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_TRUE(WIFEXITED(*status));
  EXPECT_EQ(left.Events("summary").size(), 1u);
  EXPECT_EQ(left.Events("started").size(), left.Finished() + left.Events("detached").size());

  // At once: a VM in the middle of its move is listed, too.
  FleetCommand rest(host(), "rest", {"--keep-going"});
  rest.ExpectExit(ExitCode::kBlocked);
  EXPECT_EQ(rest.Count("failed"), 1);
  EXPECT_EQ(rest.Count("moved") + rest.Count("alreadyThere"), 5);
  ExpectAllMovedOnce();
}

}  // namespace
}  // namespace rehome
