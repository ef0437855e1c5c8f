// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/child_process.h"
#include "daemon/process_identity.h"
#include "daemon/testing/child_harness.h"
#include "daemon/vmm_log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using testing_support::AwaitReadable;
using testing_support::CountOpenFds;
using testing_support::kPatience;
using testing_support::RunfilePath;

std::vector<std::string> LinesWith(const std::string& text, const std::string& prefix) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(prefix, 0) == 0) lines.push_back(line);
  }
  return lines;
}

class ProcessLauncherTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string directory = testing::TempDir() + "/launcher_XXXXXX";
    ASSERT_NE(mkdtemp(directory.data()), nullptr);
    directory_ = std::filesystem::canonical(directory).string();
    std::ofstream(directory_ + "/data") << "no program";
    ASSERT_EQ(chmod((directory_ + "/data").c_str(), 0600), 0);
    const auto add = [this](VmmProfile profile) { profiles_[profile.name] = std::move(profile); };
    add({.name = "report",
         .command = {RunfilePath("daemon/test_child"), "report", "two words"},
         .environment = {{"COLOR", "blue"}}});
    add({.name = "own-path",
         .command = {RunfilePath("daemon/test_child"), "report"},
         .environment = {{"PATH", "/opt/vmm/bin"}}});
    add({.name = "wait", .command = {RunfilePath("daemon/test_child"), "wait"}});
    add({.name = "missing", .command = {"/nonexistent/vmm"}});
    add({.name = "not-executable", .command = {directory_ + "/data"}});
    add({.name = "off", .command = {"/bin/true"}, .enabled = false});
    Start();
  }
  void TearDown() override {
    launcher_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Start() {
    absl::StatusOr<std::unique_ptr<Launcher>> launcher =
        NewProcessLauncher({.profiles = profiles_,
                            .state_directory = directory_,
                            .agent_socket = "/run/test/agent.sock"});
    ASSERT_TRUE(launcher.ok()) << launcher.status();
    launcher_ = *std::move(launcher);
  }
  std::string LogOf(const std::string& migration) {
    std::ifstream in(directory_ + "/vmm-logs/" + migration + ".log");
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // What a "report" child printed, after its end.
  std::string Report(const std::string& profile, const std::string& migration) {
    absl::StatusOr<LaunchedVmm> vmm = launcher_->Launch(profile, migration);
    EXPECT_TRUE(vmm.ok()) << vmm.status();
    EXPECT_TRUE(vmm.ok() && AwaitReadable(vmm->pidfd.borrow()));
    return LogOf(migration);
  }
  static bool HasChildren() {
    siginfo_t info = {};
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  }

  std::string directory_;
  std::map<std::string, VmmProfile> profiles_;
  std::unique_ptr<Launcher> launcher_;
};

TEST_F(ProcessLauncherTest, GivesTheChildFourDescriptorsAndNoOthers) {
  // Descriptors of ours that were not made close-on-exec.
  const UniqueFd careless(open("/etc/passwd", O_RDONLY));
  const UniqueFd high(fcntl(careless.borrow().raw(), F_DUPFD, 700));
  ASSERT_TRUE(high.valid());
  const std::string report = Report("report", "m-1");
  EXPECT_THAT(LinesWith(report, "fd "),
              ElementsAre("fd 0 /dev/null", StartsWith("fd 1 " + directory_ + "/vmm-logs/m-1.log"),
                          StartsWith("fd 2 " + directory_ + "/vmm-logs/m-1.log"),
                          StartsWith("fd 3 socket:")))
      << report;
  EXPECT_THAT(report, HasSubstr("printed to stderr"));
}

TEST_F(ProcessLauncherTest, GivesTheChildItsProfilesEnvironmentAndNothingOfOurs) {
  setenv("SECRET_OF_THE_DAEMON", "1", 1);
  EXPECT_THAT(LinesWith(Report("report", "m-2"), "env "),
              testing::UnorderedElementsAre(absl::StrCat("env PATH=", kDefaultPath),
                                            "env COLOR=blue", "env REHOME_AGENT_FD=3",
                                            "env REHOME_AGENT_SOCKET=/run/test/agent.sock",
                                            "env REHOME_MIGRATION_ID=m-2"));
  EXPECT_THAT(LinesWith(Report("own-path", "m-3"), "env "), Contains("env PATH=/opt/vmm/bin"));
}

TEST_F(ProcessLauncherTest, GivesTheChildASessionADirectoryAUmaskAndCleanSignals) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  const std::string report = Report("report", "m-4");
  pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
  signal(SIGPIPE, SIG_DFL);
  EXPECT_THAT(report, HasSubstr("leads its session 1\n"));
  EXPECT_THAT(report, HasSubstr("directory /\n"));
  EXPECT_THAT(report, HasSubstr("Umask:\t0077\n"));
  EXPECT_THAT(report, HasSubstr("SigBlk:\t0000000000000000\n"));
  EXPECT_THAT(report, HasSubstr("SigIgn:\t0000000000000000\n"));
}

TEST_F(ProcessLauncherTest, ReturnsTheProcessAndTheOtherEndOfItsConnection) {
  absl::StatusOr<LaunchedVmm> vmm = launcher_->Launch("wait", "m-5");
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  // The pidfd is this child's: what it identifies executes our program, and its end is seen there.
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(vmm->pidfd.borrow());
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(*process, vmm->process);
  EXPECT_EQ(std::filesystem::read_symlink(absl::StrCat("/proc/", process->pid, "/exe")),
            std::filesystem::canonical(RunfilePath("daemon/test_child")));
  ASSERT_TRUE(AwaitReadable(vmm->connection.borrow()));
  char byte = 0;
  EXPECT_EQ(read(vmm->connection.borrow().raw(), &byte, 1), 1);
  EXPECT_EQ(fcntl(vmm->connection.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(vmm->pidfd.borrow().raw(), F_GETFD), FD_CLOEXEC);
  KillChild(vmm->pidfd.borrow());
  EXPECT_TRUE(AwaitReadable(vmm->pidfd.borrow()));
}

TEST_F(ProcessLauncherTest, ReportsWhatExecSaidAndLeavesNothing) {
  const size_t before = CountOpenFds();
  const absl::Status missing = launcher_->Launch("missing", "m-6").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(missing), "LAUNCH_FAILED");
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("exec of /nonexistent/vmm: No such file or directory"));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("profile missing"));
  EXPECT_THAT(std::string(launcher_->Launch("not-executable", "m-6").status().message()),
              HasSubstr("/data: Permission denied"));
  EXPECT_EQ(CountOpenFds(), before);
  EXPECT_FALSE(HasChildren());
}

TEST_F(ProcessLauncherTest, RefusesProfilesThatAreUnknownOrDisabled) {
  EXPECT_EQ(ReasonOf(launcher_->Launch("nobody", "m-7").status()), "PROFILE_NOT_FOUND");
  EXPECT_EQ(launcher_->Profile("nobody").status().code(), absl::StatusCode::kNotFound);
  const absl::Status off = launcher_->Launch("off", "m-7").status();
  EXPECT_EQ(off.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(off), "PROFILE_DISABLED");
  EXPECT_TRUE(launcher_->Profile("off").ok());
  EXPECT_FALSE(HasChildren());
}

TEST_F(ProcessLauncherTest, ReapsAChildThatNobodyWaitsFor) {
  const size_t before = CountOpenFds();
  {
    absl::StatusOr<LaunchedVmm> vmm = launcher_->Launch("wait", "m-8");
    ASSERT_TRUE(vmm.ok());
    vmm->connection.Reset();  // it exits
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (HasChildren() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_FALSE(HasChildren());
    EXPECT_EQ(ReasonOf(IdentifyProcess(vmm->pidfd.borrow()).status()), "PROCESS_GONE");
  }
  // The reaper's duplicate goes a moment after the zombie.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (CountOpenFds() != before && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(CountOpenFds(), before);
}

TEST_F(ProcessLauncherTest, LeavesNoZombieOfAChildThatExitedBeforeItsOwnEnd) {
  // Many, because the reaper's thread may be quicker or slower than the end.
  for (int round = 0; round < 50; ++round) {
    {
      absl::StatusOr<LaunchedVmm> vmm = launcher_->Launch("report", absl::StrCat("m-", round));
      ASSERT_TRUE(vmm.ok()) << vmm.status();
      ASSERT_TRUE(AwaitReadable(vmm->pidfd.borrow()));
    }
    launcher_.reset();
    ASSERT_FALSE(HasChildren()) << "round " << round;
    Start();
  }
}

TEST_F(ProcessLauncherTest, AChildOutlivesItsLauncher) {
  absl::StatusOr<LaunchedVmm> vmm = launcher_->Launch("wait", "m-9");
  ASSERT_TRUE(vmm.ok());
  launcher_.reset();
  pollfd entry = {.fd = vmm->pidfd.borrow().raw(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0) << "it has exited";
  KillChild(vmm->pidfd.borrow());
}

TEST_F(ProcessLauncherTest, KeepsABoundedNumberOfLogs) {
  const std::string logs = directory_ + "/vmm-logs/";
  for (size_t i = 0; i < kMaxVmmLogs + 3; ++i) {
    const std::string path = absl::StrCat(logs, "old-", i, ".log");
    std::ofstream(path) << "x";
    const timespec times[2] = {{.tv_sec = 1000 + static_cast<time_t>(i)},
                               {.tv_sec = 1000 + static_cast<time_t>(i)}};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  }
  std::ofstream(logs + "notes.txt") << "not ours";
  ASSERT_TRUE(OpenVmmLog(directory_ + "/vmm-logs", "m-10").ok());
  EXPECT_FALSE(std::filesystem::exists(logs + "old-3.log")) << "the oldest go";
  EXPECT_TRUE(std::filesystem::exists(logs + "old-4.log"));
  EXPECT_TRUE(std::filesystem::exists(logs + "m-10.log"));
  EXPECT_TRUE(std::filesystem::exists(logs + "notes.txt"));
}

TEST_F(ProcessLauncherTest, AMigrationIdIsNoPathAndALogNoSymlink) {
  for (const char* id : {"", "../m", "a/b", "."}) {
    EXPECT_EQ(ReasonOf(launcher_->Launch("wait", id).status()), "BAD_MIGRATION_ID") << id;
  }
  const std::string victim = directory_ + "/victim";
  std::ofstream(victim) << "";
  std::filesystem::create_symlink(victim, directory_ + "/vmm-logs/m-11.log");
  EXPECT_EQ(ReasonOf(launcher_->Launch("report", "m-11").status()), "LAUNCH_FAILED");
  EXPECT_EQ(std::filesystem::file_size(victim), 0u);
  EXPECT_FALSE(HasChildren());
}

TEST(NewProcessLauncher, NeedsItsStateDirectory) {
  EXPECT_EQ(ReasonOf(NewProcessLauncher({.state_directory = "/nonexistent/state"}).status()),
            "STATE_DIRECTORY_UNUSABLE");
}

TEST(StartChild, FailsWhenNoDescriptorIsLeft) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 12;  // below where the child's descriptors wait
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const absl::Status status =
      StartChild({.command = {"/bin/true"}, .fds = {BorrowedFd(STDERR_FILENO)}}, kPatience)
          .status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(ReasonOf(status), "FD_LIMIT");
}

}  // namespace
}  // namespace rehome
