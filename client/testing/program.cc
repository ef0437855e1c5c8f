// SPDX-License-Identifier: Apache-2.0
#include "client/testing/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace rehome::testing {

Program::Program(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "client/cli/rehome");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::array<int, 2> ends;
  EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
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
  output_ = ends[0];
}

Program::~Program() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
}

void Program::Interrupt() { EXPECT_EQ(kill(pid_, SIGINT), 0); }

bool Program::ReadMore() {
  std::array<char, 4096> chunk;
  const ssize_t size = read(output_, chunk.data(), chunk.size());
  if (size <= 0) return false;
  written_.append(chunk.data(), static_cast<size_t>(size));
  return true;
}

bool Program::AwaitText(const std::string& text) {
  while (written_.find(text) == std::string::npos) {
    if (!ReadMore()) return false;
  }
  return true;
}

int Program::Wait() {
  while (ReadMore()) {
  }
  int status = -1;
  EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  pid_ = -1;
  return status;
}

}  // namespace rehome::testing
