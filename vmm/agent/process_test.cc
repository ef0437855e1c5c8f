// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace rehome {
namespace {

constexpr int kPatienceMs = 20000;

// A child with its pidfd; killed and reaped at the end.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      body();
      (void)!write(ready[1], "x", 1);
      for (;;) pause();
    }
    pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    char byte;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
  }
  ~Child() {
    rehome_process_kill(pidfd_);
    Reap();
    close(pidfd_);
  }
  void Reap() {
    if (pid_ != 0) waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  bool AwaitExit() const {
    pollfd poller = {.fd = pidfd_, .events = POLLIN, .revents = 0};
    return poll(&poller, 1, kPatienceMs) == 1;
  }
  int pidfd() const { return pidfd_; }

 private:
  pid_t pid_;
  int pidfd_;
};

bool AwaitStopped(int pidfd) {
  timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  do {
    if (rehome_process_stopped(pidfd)) return true;
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - start.tv_sec) * 1000 < kPatienceMs);
  return false;
}

TEST(Process, IsNeitherExitedNorStoppedWhileItLives) {
  Child child([] {});
  EXPECT_EQ(rehome_process_check(child.pidfd()), 0);
  EXPECT_EQ(rehome_process_may_kill(child.pidfd()), 0);
  EXPECT_FALSE(rehome_process_exited(child.pidfd()));
  EXPECT_FALSE(rehome_process_stopped(child.pidfd()));
}

TEST(Process, IsNotStoppedByAStopSignal) {
  Child child([] {});
  ASSERT_EQ(syscall(SYS_pidfd_send_signal, child.pidfd(), SIGSTOP, nullptr, 0), 0);
  EXPECT_FALSE(rehome_process_stopped(child.pidfd()));
}

TEST(Process, IsProvenStoppedAfterAKill) {
  Child child([] {
    for (int i = 0; i < 7; i++)
      std::thread([] {
        for (;;) pause();
      }).detach();
  });
  EXPECT_FALSE(rehome_process_stopped(child.pidfd()));
  EXPECT_EQ(rehome_process_kill(child.pidfd()), 0);
  EXPECT_TRUE(AwaitStopped(child.pidfd()));
  EXPECT_TRUE(child.AwaitExit());
  EXPECT_TRUE(rehome_process_exited(child.pidfd()));
}

// Whether the proof came while the exit was still under way.
bool StoppedBeforeExit(size_t memory_size) {
  Child child([memory_size] {
    void* memory = mmap(nullptr, memory_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) abort();
  });
  EXPECT_EQ(rehome_process_kill(child.pidfd()), 0);
  while (!rehome_process_exited(child.pidfd())) {
    if (rehome_process_stopped(child.pidfd()) && !rehome_process_exited(child.pidfd())) return true;
  }
  return false;
}

TEST(Process, IsProvenStoppedBeforeItsMemoryIsTornDown) {
  // Tearing this much down takes far longer than reading /proc; but this process may lose its core
  // for just that long, so once in a few tries is enough.
  constexpr size_t kSize = 256 << 20;
  constexpr int kTries = 10;
  bool seen = false;
  for (int i = 0; i < kTries && !seen; i++) seen = StoppedBeforeExit(kSize);
  EXPECT_TRUE(seen);
}

TEST(Process, OfAnotherUserCanBeWatchedButNotKilled) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  Child child([] {});
  pid_t stranger = fork();
  if (stranger == 0) {
    const uid_t nobody = 65534;
    if (setresuid(nobody, nobody, nobody) != 0) _exit(1);
    bool right = rehome_process_check(child.pidfd()) == 0 &&
                 rehome_process_may_kill(child.pidfd()) == -EPERM &&
                 rehome_process_kill(child.pidfd()) == -EPERM;
    _exit(right ? 0 : 2);
  }
  int status = -1;
  waitpid(stranger, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Process, IsGoneOnceItIsReaped) {
  Child child([] {});
  EXPECT_EQ(rehome_process_kill(child.pidfd()), 0);
  EXPECT_TRUE(child.AwaitExit());
  child.Reap();
  EXPECT_EQ(rehome_process_check(child.pidfd()), -ESRCH);
  EXPECT_EQ(rehome_process_kill(child.pidfd()), 0);
  EXPECT_TRUE(rehome_process_exited(child.pidfd()));
  EXPECT_TRUE(rehome_process_stopped(child.pidfd()));
}

TEST(Process, RefusesAnFdThatIsNoPidfd) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(rehome_process_check(ends[0]), -EBADF);
  EXPECT_EQ(rehome_process_kill(ends[0]), -EBADF);
  EXPECT_EQ(rehome_process_may_kill(ends[0]), -EBADF);
  EXPECT_EQ(rehome_process_check(-1), -EBADF);
  EXPECT_EQ(rehome_process_may_kill(-1), -EBADF);
  EXPECT_FALSE(rehome_process_exited(-1));
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace rehome
