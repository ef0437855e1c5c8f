// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/pid_namespace.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "kvmglue/fd.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

constexpr int kPatienceMs = 20'000;

int StatusOf(const absl::StatusOr<pid_t>& child) {
  int status = 0;
  if (!child.ok() || waitpid(*child, &status, 0) != *child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

TEST(PidNamespaceTest, SeesNobodyButItself) {
  if (const std::string why = WhyNoPidNamespace(); !why.empty()) GTEST_SKIP() << why;
  const auto body = [] { return getpid() == 1 ? static_cast<int>(AllProcesses().size()) : 99; };
  EXPECT_EQ(StatusOf(ForkIntoPidNamespace(body)), 1);
  EXPECT_GT(AllProcesses().size(), 1U) << "the /proc here has changed";
}

TEST(PidNamespaceTest, WhatItLeavesBehindEndsWithIt) {
  if (const std::string why = WhyNoPidNamespace(); !why.empty()) GTEST_SKIP() << why;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  // The grandchild holds the write end for as long as it lives.
  const auto body = [] {
    if (fork() == 0) {
      for (;;) pause();
    }
    return 0;
  };
  EXPECT_EQ(StatusOf(ForkIntoPidNamespace(body)), 0);
  write_end.Reset();
  pollfd entry = {.fd = read_end.borrow().raw(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&entry, 1, kPatienceMs), 1);
  EXPECT_NE(entry.revents & POLLHUP, 0);
}

}  // namespace
}  // namespace rehome::harness
