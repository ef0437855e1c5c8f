// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "daemon/child_process.h"
#include "daemon/fence.h"
#include "daemon/inode_holders.h"
#include "daemon/proc_files.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/failing_call.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::AwaitReadable;
using testing_support::CountOpenFds;
using testing_support::kPatience;
using testing_support::MakeMemfd;
using testing_support::RunWhileFailing;
using testing_support::StartTestChild;
using testing_support::TestChild;

class ProcFenceTest : public testing::Test {
 protected:
  InodeId InodeOf(const UniqueFd& fd) {
    absl::StatusOr<FileIdentity> file = Identify(fd.borrow());
    EXPECT_TRUE(file.ok());
    return file.ok() ? file->id : InodeId{};
  }
  HolderSearch Search(const std::vector<InodeId>& inodes,
                      const std::vector<ProcessIdentity>& allowed = {}) {
    absl::StatusOr<HolderSearch> search = fence_->FindHolders(inodes, allowed);
    EXPECT_TRUE(search.ok()) << search.status();
    return search.ok() ? *std::move(search) : HolderSearch();
  }
  std::vector<InodeHolder> Foreign(const UniqueFd& memory,
                                   const std::vector<ProcessIdentity>& allowed = {}) {
    return Search({InodeOf(memory)}, allowed).Foreign();
  }
  // Neither running nor a zombie.
  static bool IsReaped(const TestChild& child) {
    return ReasonOf(IdentifyProcess(child.pidfd.borrow()).status()) == "PROCESS_GONE";
  }

  std::unique_ptr<Fence> fence_ = NewProcFence();
};

TEST_F(ProcFenceTest, ProvesAProcessOfManyThreadsStoppedAndGone) {
  const TestChild child = StartTestChild({"threads", "32"});
  ASSERT_TRUE(fence_->Kill(child.pidfd.borrow()).ok());
  absl::StatusOr<uint64_t> stopped =
      fence_->AwaitTasksStopped(child.pidfd.borrow(), child.process, kPatience);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  absl::StatusOr<uint64_t> exited = fence_->AwaitExit(child.pidfd.borrow(), kPatience);
  ASSERT_TRUE(exited.ok()) << exited.status();
  EXPECT_LE(*stopped, *exited);
  EXPECT_TRUE(IsReaped(child));
}

TEST_F(ProcFenceTest, DoesNotTakeALivingProcessForStopped) {
  for (const std::vector<std::string>& mode :
       {std::vector<std::string>{"wait"}, {"threads", "4"}, {"exit-leader"}}) {
    const TestChild child = StartTestChild(mode);
    const absl::Status status =
        fence_->AwaitTasksStopped(child.pidfd.borrow(), child.process, milliseconds(20)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << mode[0];
    EXPECT_EQ(ReasonOf(status), "FENCE_TIMEOUT") << mode[0];
    EXPECT_EQ(ReasonOf(fence_->AwaitExit(child.pidfd.borrow(), milliseconds(1)).status()),
              "FENCE_TIMEOUT");
    KillChild(child.pidfd.borrow());
  }
}

TEST_F(ProcFenceTest, AProcessThatIsGoneIsStoppedExitedAndKilled) {
  const TestChild child = StartTestChild({"wait"});
  KillChild(child.pidfd.borrow());
  EXPECT_TRUE(fence_->Kill(child.pidfd.borrow()).ok());
  EXPECT_TRUE(fence_->AwaitTasksStopped(child.pidfd.borrow(), child.process, milliseconds(0)).ok());
  EXPECT_TRUE(fence_->AwaitExit(child.pidfd.borrow(), milliseconds(0)).ok());
}

TEST_F(ProcFenceTest, ALaterProcessWithTheSameNumberDoesNotKeepTheProofUp) {
  const TestChild child = StartTestChild({"wait"});
  ProcessIdentity earlier = child.process;
  --earlier.start_ticks;
  EXPECT_TRUE(fence_->AwaitTasksStopped(child.pidfd.borrow(), earlier, milliseconds(0)).ok());
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, ReapsAZombie) {
  TestChild child = StartTestChild({"wait"});
  child.channel.Reset();
  ASSERT_TRUE(AwaitReadable(child.pidfd.borrow()));
  EXPECT_FALSE(IsReaped(child));
  EXPECT_TRUE(fence_->AwaitExit(child.pidfd.borrow(), kPatience).ok());
  EXPECT_TRUE(IsReaped(child));
}

// The host is short of memory: what could not be looked at is not taken for something else.
TEST_F(ProcFenceTest, ADescriptorThatCannotBeLookedAtMakesTheSearchFail) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"wait"}, memory.borrow());
  const InodeId inode = InodeOf(memory);
  for (const int error : {ENOMEM, EACCES}) {
    RunWhileFailing(SYS_statx, error, [&] {
      const absl::Status status = fence_->FindHolders({inode}, {}).status();
      EXPECT_EQ(ReasonOf(status), "HOLDERS_UNREADABLE") << strerrorname_np(error);
    });
  }
}

TEST_F(ProcFenceTest, AHolderThatCannotBeToldFromAnotherOneMakesTheSearchFail) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"wait"}, memory.borrow());
  const InodeId inode = InodeOf(memory);
  RunWhileFailing(SYS_read, ENOMEM, [&] {
    const absl::Status status = fence_->FindHolders({inode}, {child.process}).status();
    EXPECT_EQ(ReasonOf(status), "HOLDERS_UNREADABLE");
  });
}

TEST_F(ProcFenceTest, FindsAHolderByItsDescriptor) {
  const UniqueFd memory = MakeMemfd();
  const UniqueFd other = MakeMemfd();
  EXPECT_THAT(Foreign(memory), IsEmpty()) << "this process is not foreign";
  const TestChild child = StartTestChild({"wait"}, memory.borrow());
  EXPECT_THAT(
      Foreign(memory),
      ElementsAre(InodeHolder{.pid = child.process.pid, .command = "test_child", .how = "fd"}));
  EXPECT_THAT(Foreign(other), IsEmpty());
  KillChild(child.pidfd.borrow());
  EXPECT_THAT(Foreign(memory), IsEmpty());
}

TEST_F(ProcFenceTest, FindsAHolderByItsMapping) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"map"}, memory.borrow());
  EXPECT_THAT(Foreign(memory),
              ElementsAre(InodeHolder{
                  .pid = child.process.pid, .command = "test_child", .how = "mapping"}));
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, FindsADescriptorInAThreadsOwnTable) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"private-fd"}, memory.borrow());
  EXPECT_THAT(
      Foreign(memory),
      ElementsAre(InodeHolder{.pid = child.process.pid, .command = "test_child", .how = "fd"}));
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, FindsAHolderWhoseFirstThreadHasExited) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"exit-leader"}, memory.borrow());
  EXPECT_THAT(
      Foreign(memory),
      ElementsAre(InodeHolder{.pid = child.process.pid, .command = "test_child", .how = "fd"}));
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, SaysOfEachInodeWhoHoldsItAndInWhichRole) {
  const UniqueFd shared = MakeMemfd(), ours = MakeMemfd();
  UniqueFd nobodys = MakeMemfd();
  const InodeId closed = InodeOf(nobodys);
  nobodys.Reset();
  const TestChild child = StartTestChild({"wait"}, shared.borrow());
  const uint64_t before = rehome_monotonic_ns();
  const HolderSearch search = Search({InodeOf(ours), closed, InodeOf(shared)}, {child.process});
  EXPECT_GE(search.begun_ns, before);
  EXPECT_EQ(search.init_shielded, IsInitShielded());
  ASSERT_EQ(search.memory.size(), 3u);
  const auto pids = [&](size_t i, HolderClass holder_class) {
    std::vector<int32_t> pids;
    for (const InodeHolder& holder : search.memory[i].holders) {
      if (holder.holder_class == holder_class) pids.push_back(holder.pid);
    }
    return pids;
  };
  EXPECT_EQ(search.memory[0].inode, InodeOf(ours));
  EXPECT_FALSE(search.memory[0].HeldByTarget());
  EXPECT_THAT(pids(0, HolderClass::kDaemon), ElementsAre(getpid()));
  EXPECT_THAT(search.memory[1].holders, IsEmpty());
  EXPECT_TRUE(search.memory[2].HeldByTarget());
  EXPECT_THAT(pids(2, HolderClass::kTarget), ElementsAre(child.process.pid));
  EXPECT_THAT(pids(2, HolderClass::kDaemon), ElementsAre(getpid()));
  EXPECT_EQ(search.memory[2].foreign, 0u);
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, CountsAllForeignHoldersAndListsTheExpectedOneWhateverTheCrowd) {
  const UniqueFd memory = MakeMemfd();
  std::vector<TestChild> crowd;
  for (size_t i = 0; i < kMaxHoldersListed + 2; ++i) {
    crowd.push_back(StartTestChild({"wait"}, memory.borrow()));
  }
  // The last one is met after the list is full.
  const HolderSearch search = Search({InodeOf(memory)}, {crowd.back().process});
  EXPECT_EQ(search.memory[0].foreign, crowd.size() - 1);
  EXPECT_EQ(search.memory[0].holders.size(), kMaxHoldersListed);
  EXPECT_TRUE(search.memory[0].HeldByTarget());
  for (const TestChild& child : crowd) KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, KnowsWhoIsAllowedByIdentityNotByNumber) {
  const UniqueFd memory = MakeMemfd();
  const TestChild child = StartTestChild({"wait"}, memory.borrow());
  EXPECT_THAT(Foreign(memory, {child.process}), IsEmpty());
  ProcessIdentity earlier = child.process;
  --earlier.start_ticks;
  EXPECT_EQ(Foreign(memory, {earlier}).size(), 1u);
  KillChild(child.pidfd.borrow());
}

TEST_F(ProcFenceTest, IsNotDisturbedByProcessesThatComeAndGo) {
  const UniqueFd memory = MakeMemfd();
  std::future<void> coming_and_going = std::async(std::launch::async, [] {
    for (int i = 0; i < 50; ++i) {
      absl::StatusOr<UniqueFd> child = StartChild({.command = {"/bin/true"}}, kPatience);
      ASSERT_TRUE(child.ok()) << child.status();
      KillChild(child->borrow());
    }
  });
  while (coming_and_going.wait_for(milliseconds(0)) != std::future_status::ready) {
    EXPECT_THAT(Foreign(memory), IsEmpty());
  }
}

// A fork of ours on its way to exec has copies of all our descriptors. `channel`: what it waits
// for.
pid_t ForkThatWaitsThenExecs(BorrowedFd channel) {
  const pid_t child = fork();
  if (child != 0) return child;
  pollfd entry = {.fd = channel.raw(), .events = POLLIN, .revents = 0};
  poll(&entry, 1, static_cast<int>(kPatience.count()));
  execl("/bin/sleep", "sleep", "20", nullptr);
  _exit(1);
}

TEST_F(ProcFenceTest, WaitsForAForkOfOursToExecBeforeItCounts) {
  const UniqueFd memory = MakeMemfd();
  int raw[2];
  ASSERT_EQ(pipe2(raw, O_CLOEXEC), 0);
  const UniqueFd read_end(raw[0]), write_end(raw[1]);
  const pid_t child = ForkThatWaitsThenExecs(read_end.borrow());
  ASSERT_GT(child, 0);
  std::future<std::vector<InodeHolder>> holders =
      std::async(std::launch::async, [&] { return Foreign(memory); });
  ASSERT_EQ(write(write_end.borrow().raw(), "x", 1), 1);
  EXPECT_THAT(holders.get(), IsEmpty());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

// One bound for all of them: the launcher has killed by then what it has started before.
TEST_F(ProcFenceTest, ReportsForksOfOursThatNeverExecAfterWaitingOnceForAll) {
  const UniqueFd memory = MakeMemfd();
  int raw[2];
  ASSERT_EQ(pipe2(raw, O_CLOEXEC), 0);
  const UniqueFd read_end(raw[0]), write_end(raw[1]);
  const std::array<pid_t, 2> children = {ForkThatWaitsThenExecs(read_end.borrow()),
                                         ForkThatWaitsThenExecs(read_end.borrow())};
  const auto before = std::chrono::steady_clock::now();
  const std::vector<InodeHolder> holders = Foreign(memory);
  const auto waited = std::chrono::steady_clock::now() - before;
  EXPECT_GE(waited, kForkSettleTimeout);
  EXPECT_LT(waited, 3 * kForkSettleTimeout / 2);
  EXPECT_EQ(holders.size(), children.size());
  for (const pid_t child : children) {
    ASSERT_GT(child, 0);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
}

// Without CAP_SYS_PTRACE a process 1 that cannot be read is a reason to fail, not a shielded init.
TEST_F(ProcFenceTest, SaysSoWhenItMayNotLook) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to give its rights away";
  const UniqueFd memory = MakeMemfd();
  const std::vector<InodeId> inodes = {InodeOf(memory)};
  constexpr int kAsExpected = 42;
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(1);
    const absl::Status status = NewProcFence()->FindHolders(inodes, {}).status();
    if (IsInitShielded()) _exit(3);
    _exit(status.code() == absl::StatusCode::kUnknown && ReasonOf(status) == "HOLDERS_UNREADABLE"
              ? kAsExpected
              : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), kAsExpected);
}

TEST_F(ProcFenceTest, LeavesNoDescriptorOpen) {
  const UniqueFd memory = MakeMemfd();
  const size_t before = CountOpenFds();
  {
    const TestChild child = StartTestChild({"threads", "4"}, memory.borrow());
    EXPECT_EQ(Foreign(memory).size(), 1u);
    ASSERT_TRUE(fence_->Kill(child.pidfd.borrow()).ok());
    EXPECT_TRUE(fence_->AwaitTasksStopped(child.pidfd.borrow(), child.process, kPatience).ok());
    EXPECT_TRUE(fence_->AwaitExit(child.pidfd.borrow(), kPatience).ok());
  }
  EXPECT_EQ(CountOpenFds(), before);
}

}  // namespace
}  // namespace rehome
