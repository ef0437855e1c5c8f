// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/proc.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "gtest/gtest.h"
#include "tests/harness/process.h"

namespace rehome::harness {
namespace {

constexpr std::chrono::milliseconds kTimeout(20'000);
constexpr size_t kPage = 4096;

// A memfd of one page.
UniqueFd NewFile() {
  UniqueFd file(memfd_create("proc_test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.borrow().raw(), kPage), 0);
  return file;
}

TEST(ParseMappingTest, ReadsEveryFieldOfALine) {
  const auto mapping = ParseMapping(
      "7f0010000000-7f0014000000 rw-s 00001000 00:10 8733                     "
      "anon_inode:[kvm-gmem] (deleted)");
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->start, 0x7f0010000000u);
  EXPECT_EQ(mapping->size(), 64u << 20);
  EXPECT_EQ(mapping->offset, 0x1000u);
  EXPECT_EQ(mapping->inode, (InodeId{.device = makedev(0, 0x10), .inode = 8733}));
  EXPECT_TRUE(mapping->writable);
  EXPECT_TRUE(mapping->shared);
  EXPECT_EQ(mapping->path, "anon_inode:[kvm-gmem] (deleted)");
}

TEST(ParseMappingTest, AnonymousMemoryHasNeitherInodeNorPath) {
  const auto mapping = ParseMapping("7ffe00000000-7ffe00021000 r--p 00000000 00:00 0 ");
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->inode, InodeId());
  EXPECT_EQ(mapping->path, "");
  EXPECT_FALSE(mapping->writable);
  EXPECT_FALSE(mapping->shared);
}

TEST(ParseMappingTest, RefusesWhatIsNoMapping) {
  for (const char* line : {"", "hello", "1000-2000 rw-p", "3000-2000 rw-p 0 00:00 0"}) {
    EXPECT_FALSE(ParseMapping(line).ok()) << line;
  }
}

TEST(HoldersTest, FindsDescriptorAndMappingAndForgetsThemWhenTheyAreGone) {
  UniqueFd file = NewFile();
  const auto identity = Identify(file.borrow());
  ASSERT_TRUE(identity.ok());
  void* mapped = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file.borrow().raw(), 0);
  ASSERT_NE(mapped, MAP_FAILED);

  auto holders = HoldersOf({identity->id});
  ASSERT_EQ(holders.size(), 2u);
  EXPECT_EQ(holders[0].pid, getpid());
  EXPECT_EQ(holders[0].how, "fd " + std::to_string(file.borrow().raw()));
  EXPECT_EQ(holders[1].how, "mapping");

  file.Reset();
  holders = HoldersOf({identity->id});
  ASSERT_EQ(holders.size(), 1u);
  EXPECT_EQ(holders[0].how, "mapping");

  munmap(mapped, kPage);
  EXPECT_TRUE(HoldersOf({identity->id}).empty());
}

TEST(ProcTest, CountsDescriptorsByWhatTheyLeadTo) {
  const auto before = OpenDescriptors(getpid());
  ASSERT_TRUE(before.ok());
  const UniqueFd file = NewFile();
  const UniqueFd socket_a(socket(AF_UNIX, SOCK_STREAM, 0));
  const UniqueFd socket_b(socket(AF_UNIX, SOCK_STREAM, 0));
  auto expected = *before;
  ++expected["/memfd:proc_test (deleted)"];
  expected["socket"] += 2;
  EXPECT_EQ(OpenDescriptors(getpid()).value(), expected);
}

TEST(ProcTest, ReadsMemoryFigures) {
  EXPECT_GT(StatusBytes(getpid(), "VmRSS").value(), 1u << 20);
  EXPECT_EQ(StatusBytes(getpid(), "VmR").status().code(), absl::StatusCode::kNotFound);
}

TEST(ProcTest, KnowsAChildByItsEnvironmentAndProgram) {
  const auto child = Process::Start(
      {.argv = {"/bin/sleep", "600"}, .environment = {{"PROC_TEST_MARK", "here"}, {"HOME", "/"}}});
  ASSERT_TRUE(child.ok()) << child.status();
  // The kernel sets up the new program's environment some time after the old one is gone.
  for (int i = 0; i < kTimeout.count() && EnvironmentVariable(child->pid(), "HOME").empty(); ++i) {
    poll(nullptr, 0, 1);
  }
  EXPECT_EQ(EnvironmentVariable(child->pid(), "PROC_TEST_MARK"), "here");
  EXPECT_EQ(EnvironmentVariable(child->pid(), "PROC_TEST"), "");
  EXPECT_EQ(EnvironmentVariable(getpid(), "PROC_TEST_MARK"), "");
  const std::vector<pid_t> all = AllProcesses();
  EXPECT_NE(std::find(all.begin(), all.end(), child->pid()), all.end());
}

TEST(ProcTest, AChildThatNobodyReapedIsStillAChild) {
  auto child = Process::Start({.argv = {"/bin/true"}});
  ASSERT_TRUE(child.ok()) << child.status();
  const pid_t pid = child->pid();
  pollfd exited{.fd = child->pidfd().raw(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&exited, 1, kTimeout.count()), 1);
  const auto is_child = [pid] {
    const std::vector<pid_t> children = ChildrenOf(getpid());
    return std::find(children.begin(), children.end(), pid) != children.end();
  };
  EXPECT_TRUE(is_child());
  ASSERT_TRUE(child->WaitExit(kTimeout).ok());
  EXPECT_FALSE(is_child());
}

TEST(ScopedStopTest, EveryThreadStandsStillAndGoesOnAfterwards) {
  const auto child = Process::Start({.argv = {"/bin/sh", "-c", "while :; do :; done"}});
  ASSERT_TRUE(child.ok()) << child.status();
  {
    const auto stop = ScopedStop::Stop(child->pid(), kTimeout);
    ASSERT_TRUE(stop.ok()) << stop.status();
    EXPECT_EQ(ThreadStates(child->pid()), "T");
  }
  // SIGCONT takes effect when it is sent (kernel/signal.c, prepare_signal()).
  EXPECT_NE(ThreadStates(child->pid()), "T");
}

TEST(ScopedStopTest, SaysThatAProcessIsGone) {
  auto child = Process::Start({.argv = {"/bin/true"}});
  ASSERT_TRUE(child.ok()) << child.status();
  const pid_t pid = child->pid();
  ASSERT_TRUE(child->WaitExit(kTimeout).ok());
  EXPECT_FALSE(ScopedStop::Stop(pid, kTimeout).ok());
}

}  // namespace
}  // namespace rehome::harness
