// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C, with the real program: `rehome` as a process that gets SIGINT while it waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/testing/fake_daemon.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {
namespace {

using ::testing::HasSubstr;

// A running `rehome`, its standard error in a pipe.
class Program {
 public:
  explicit Program(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "client/cli/rehome");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::array<int, 2> ends;
    EXPECT_EQ(pipe(ends.data()), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    // A test that runs in the background has SIGINT ignored, and that is inherited.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    posix_spawnattr_setsigdefault(&attributes, &interrupt);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, &attributes, argv.data(), environ), 0);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    errors_ = ends[0];
  }

  void Interrupt() { EXPECT_EQ(kill(pid_, SIGINT), 0); }

  // Its wait status; fills `errors`.
  int Wait(std::string* errors) {
    std::array<char, 4096> chunk;
    for (ssize_t size = read(errors_, chunk.data(), chunk.size()); size > 0;
         size = read(errors_, chunk.data(), chunk.size())) {
      errors->append(chunk.data(), static_cast<size_t>(size));
    }
    close(errors_);
    int status = -1;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return status;
  }

 private:
  pid_t pid_ = -1;
  int errors_ = -1;
};

TEST(DetachTest, InterruptLeavesTheMigrationAloneAndSaysHowToComeBack) {
  const testing::TempSocket socket;
  testing::FakeDaemon daemon(socket.path());
  daemon.SetHistory(testing::SampleHistory());
  daemon.HoldBefore(3);
  Program program({"--socket", socket.path(), "migrate", "web-1", "--to", "vmm-2"});
  ASSERT_TRUE(daemon.AwaitHeld());
  program.Interrupt();
  std::string errors;
  const int status = program.Wait(&errors);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kDetached));
  EXPECT_THAT(errors, HasSubstr("Detached; the migration goes on"));
  EXPECT_THAT(errors, HasSubstr("rehome migration watch m-0123456789abcdef"));
  EXPECT_THAT(errors, HasSubstr("rehome migration cancel m-0123456789abcdef"));
  EXPECT_EQ(daemon.cancelled(), 0u) << "to stop is another command";
}

}  // namespace
}  // namespace rehome
