// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/run_guard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tests/harness/eventually.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

constexpr std::chrono::milliseconds kBound{30'000};

std::string HostBelow(const std::string& directory) { return directory + "/host"; }

size_t ProcessesOf(const std::string& host) {
  const std::vector<pid_t> all = AllProcesses();
  return static_cast<size_t>(std::count_if(all.begin(), all.end(), [&](pid_t pid) {
    return EnvironmentVariable(pid, kHostVariable) == host;
  }));
}

// A daemon and, because daemons die, a VMM that is nobody's child any more; it hangs.
absl::StatusOr<Process> StartFamily(const std::string& host) {
  return Process::Start(
      {.argv = {"/bin/sh", "-c", "(/bin/sh -c 'kill -STOP $$; sleep 600' &); exec sleep 600"},
       .environment = {{kHostVariable, host}},
       .log_path = "/dev/null"});
}

TEST(RunGuard, EndsWhatARunLeavesBehindThatIsKilled) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd told(ends[0]);
  UniqueFd tells(ends[1]);
  const pid_t run = fork();
  ASSERT_GE(run, 0);
  if (run == 0) {
    const auto guard = RunGuard::Start();
    if (!guard.ok()) _exit(1);
    const std::string directory = (*guard)->directory();
    const auto family = StartFamily(HostBelow(directory));
    if (!family.ok() || write(tells.borrow().raw(), directory.data(), directory.size()) < 0) {
      _exit(1);
    }
    for (;;) pause();
  }
  tells.Reset();
  char text[256];
  const ssize_t size = read(told.borrow().raw(), text, sizeof(text));
  ASSERT_GT(size, 0);
  const std::string directory(text, static_cast<size_t>(size));
  ASSERT_TRUE(Eventually(kBound, [&] { return ProcessesOf(HostBelow(directory)) == 2; }));
  ASSERT_EQ(kill(run, SIGKILL), 0);
  ASSERT_EQ(waitpid(run, nullptr, 0), run);
  EXPECT_TRUE(Eventually(kBound, [&] { return ProcessesOf(HostBelow(directory)) == 0; }));
  EXPECT_TRUE(Eventually(kBound, [&] { return access(directory.c_str(), F_OK) != 0; }));
}

TEST(RunGuard, LeavesTheHostsOfOthersAlone) {
  const TempDir others;
  const auto family = StartFamily(HostBelow(others.path()));
  ASSERT_TRUE(family.ok()) << family.status();
  ASSERT_TRUE(Eventually(kBound, [&] { return ProcessesOf(HostBelow(others.path())) == 2; }));
  std::string directory;
  {
    const auto guard = RunGuard::Start();
    ASSERT_TRUE(guard.ok()) << guard.status();
    directory = (*guard)->directory();
    EXPECT_TRUE(TempDir().path().starts_with(directory + "/"));
  }
  EXPECT_NE(access(directory.c_str(), F_OK), 0);
  EXPECT_FALSE(TempDir().path().starts_with(directory));
  EXPECT_EQ(ProcessesOf(HostBelow(others.path())), 2u);
  for (const pid_t pid : AllProcesses()) {
    if (EnvironmentVariable(pid, kHostVariable) == HostBelow(others.path())) kill(pid, SIGKILL);
  }
}

}  // namespace
}  // namespace rehome::harness
