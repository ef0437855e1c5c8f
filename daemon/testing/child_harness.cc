// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/child_harness.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "daemon/child_process.h"
#include "daemon/proc_files.h"
#include "daemon/process_identity.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"

namespace rehome::testing_support {

std::string RunfilePath(const std::string& path) {
  // Bazel starts a test in the directory that holds the workspace's runfiles.
  const std::filesystem::path full = std::filesystem::current_path() / path;
  EXPECT_TRUE(std::filesystem::exists(full)) << full;
  return full.string();
}

bool AwaitReadable(BorrowedFd fd) {
  pollfd entry = {.fd = fd.raw(), .events = POLLIN, .revents = 0};
  return poll(&entry, 1, static_cast<int>(kPatience.count())) == 1;
}

TestChild StartTestChild(const std::vector<std::string>& arguments, BorrowedFd memory) {
  TestChild child;
  absl::StatusOr<SocketPair> channel = CreateSocketPair();
  if (!channel.ok()) {
    ADD_FAILURE() << channel.status();
    return child;
  }
  ChildProgram program = {.command = {RunfilePath("daemon/test_child")}, .environment = {}};
  program.command.insert(program.command.end(), arguments.begin(), arguments.end());
  program.fds = {BorrowedFd(STDERR_FILENO), BorrowedFd(STDERR_FILENO), BorrowedFd(STDERR_FILENO),
                 channel->second.borrow()};
  if (memory.valid()) program.fds.push_back(memory);
  absl::StatusOr<UniqueFd> pidfd = StartChild(program, kPatience);
  if (!pidfd.ok()) {
    ADD_FAILURE() << pidfd.status();
    return child;
  }
  child.pidfd = *std::move(pidfd);
  child.channel = std::move(channel->first);
  channel->second.Reset();
  EXPECT_TRUE(AwaitReadable(child.channel.borrow()));
  char byte = 0;
  EXPECT_EQ(read(child.channel.borrow().raw(), &byte, 1), 1) << "the child ended early";
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(child.pidfd.borrow());
  EXPECT_TRUE(process.ok()) << process.status();
  if (process.ok()) child.process = *process;
  return child;
}

size_t CountOpenFds() {
  absl::StatusOr<std::vector<int32_t>> fds = ListNumbers("/proc/self/fd");
  EXPECT_TRUE(fds.ok()) << fds.status();
  return fds.ok() ? fds->size() : 0;
}

UniqueFd MakeMemfd(size_t pages) {
  UniqueFd memfd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_TRUE(memfd.valid());
  EXPECT_EQ(ftruncate(memfd.borrow().raw(), static_cast<off_t>(pages * 4096)), 0);
  return memfd;
}

}  // namespace rehome::testing_support
