// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_identity.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "daemon/child_process.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/failing_call.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing_support::AwaitReadable;
using testing_support::kPatience;
using testing_support::MakeMemfd;
using testing_support::RunWhileFailing;
using testing_support::StartTestChild;
using testing_support::TestChild;

TEST(IdentifyProcess, NamesThisProcess) {
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(pidfd->borrow());
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(process->pid, getpid());
  EXPECT_GT(process->start_ticks, 0u);
  EXPECT_TRUE(*IsSameProcess(*process));
}

TEST(IdentifyProcess, NamesOurselvesAsOthersWould) {
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  EXPECT_EQ(IdentifySelf(), *IdentifyProcess(pidfd->borrow()));
}

TEST(IdentifyProcess, TwoProcessesDiffer) {
  const TestChild one = StartTestChild({"wait"});
  const TestChild two = StartTestChild({"wait"});
  EXPECT_FALSE(one.process == two.process);
  ProcessIdentity later = one.process;
  ++later.start_ticks;
  EXPECT_FALSE(*IsSameProcess(later)) << "another process with the same number";
}

TEST(IdentifyProcess, KnowsAZombieButNotWhatWasReaped) {
  TestChild child = StartTestChild({"wait"});
  child.channel.Reset();
  ASSERT_TRUE(AwaitReadable(child.pidfd.borrow()));
  absl::StatusOr<ProcessIdentity> zombie = IdentifyProcess(child.pidfd.borrow());
  ASSERT_TRUE(zombie.ok()) << zombie.status();
  EXPECT_EQ(*zombie, child.process);

  KillChild(child.pidfd.borrow());
  EXPECT_EQ(ReasonOf(IdentifyProcess(child.pidfd.borrow()).status()), "PROCESS_GONE");
  EXPECT_FALSE(*IsSameProcess(child.process));
}

TEST(OpenDeadProcess, IsAPidfdOfAProcessThatIsGone) {
  absl::StatusOr<UniqueFd> pidfd = OpenDeadProcess();
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  EXPECT_TRUE(AwaitReadable(pidfd->borrow()));
  EXPECT_EQ(ReasonOf(SendSignal(pidfd->borrow(), 0)), "PROCESS_GONE");
}

// A living process must not be taken for one that is gone because we could not look.
TEST(FindProcess, AFailingLookIsAnErrorAndNoDeath) {
  const TestChild child = StartTestChild({"wait"});
  for (const long call : {SYS_fstatfs, SYS_openat, SYS_read, SYS_pidfd_open}) {
    RunWhileFailing(call, ENOMEM, [&] {
      EXPECT_FALSE(call != SYS_fstatfs && call != SYS_pidfd_open &&
                   IsSameProcess(child.process).ok());
      EXPECT_FALSE(FindProcess(child.process).ok()) << "system call " << call;
      EXPECT_NE(ReasonOf(IdentifyProcess(child.pidfd.borrow()).status()), "BAD_FD");
    });
  }
  absl::StatusOr<UniqueFd> found = FindProcess(child.process);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(found->valid());
}

void IgnoreSignal(int) {}
constexpr int kInterrupts = 1000;

// The handler does not restart calls, so that ppoll(2) is interrupted.
TEST(AwaitExitOf, WaitsOnThroughASignal) {
  struct sigaction handler = {}, before = {};
  handler.sa_handler = IgnoreSignal;
  ASSERT_EQ(sigaction(SIGUSR1, &handler, &before), 0);
  TestChild child = StartTestChild({"wait"});
  const pthread_t waiting = pthread_self();
  std::atomic<bool> over = false;
  std::thread disturber([&] {
    for (int i = 0; i < kInterrupts; ++i) pthread_kill(waiting, SIGUSR1);
    child.channel.Reset();
    while (!over) pthread_kill(waiting, SIGUSR1);
  });
  EXPECT_TRUE(AwaitExitOf(child.pidfd.borrow(), kPatience));
  over = true;
  disturber.join();
  sigaction(SIGUSR1, &before, nullptr);
  ReapIfExited(child.pidfd.borrow());
  EXPECT_EQ(ReasonOf(IdentifyProcess(child.pidfd.borrow()).status()), "PROCESS_GONE");
}

TEST(IdentifyProcess, RefusesWhatIsNoPidfd) {
  const UniqueFd memfd = MakeMemfd();
  EXPECT_EQ(ReasonOf(IdentifyProcess(memfd.borrow()).status()), "BAD_FD");
  EXPECT_EQ(ReasonOf(IdentifyProcess(BorrowedFd()).status()), "BAD_FD");
}

}  // namespace
}  // namespace rehome
