// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/test_process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>

#include "kvmglue/fd_passing.h"

namespace rehome::testing {

HostPages::HostPages(uint64_t size) : size_(size) {
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(base, MAP_FAILED);
  base_ = static_cast<std::byte*>(base);
}

HostPages::~HostPages() { Unmap(); }

void HostPages::Unmap() {
  if (base_ != nullptr) munmap(base_, size_);
  base_ = nullptr;
}

Child::Child(const std::function<int(BorrowedFd)>& run) {
  auto pair = CreateSocketPair();
  EXPECT_TRUE(pair.ok());
  pid_ = fork();
  if (pid_ == 0) {
    pair->first.Reset();
    const int status = run(pair->second.borrow());
    // Not exit(): the child must not run the parent's destructors or report its tests.
    _exit(::testing::Test::HasFailure() ? 99 : status);
  }
  socket_ = std::move(pair->first);
}

Child::~Child() {
  if (pid_ > 0) {
    Kill();
    Wait();
  }
}

void Child::Kill() { kill(pid_, SIGKILL); }

int Child::Wait() {
  int status = 0;
  if (waitpid(std::exchange(pid_, -1), &status, 0) < 0) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool Send(BorrowedFd socket, const std::vector<BorrowedFd>& fds) {
  const std::byte byte{1};
  return SendMessage(socket, {&byte, 1}, fds).ok();
}

bool Receive(BorrowedFd socket, std::vector<UniqueFd>* fds) {
  pollfd wait = {.fd = socket.raw(), .events = POLLIN, .revents = 0};
  if (poll(&wait, 1, kTestTimeoutMs) != 1) return false;
  auto message = ReceiveMessage(socket, 1);
  if (!message.ok()) return false;
  if (fds != nullptr) *fds = std::move(message->fds);
  return true;
}

NoMoreFds::NoMoreFds() {
  EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
  const UniqueFd lowest = *Duplicate(BorrowedFd(0));
  rlimit none = before_;
  none.rlim_cur = static_cast<rlim_t>(lowest.borrow().raw());
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
}

NoMoreFds::~NoMoreFds() { setrlimit(RLIMIT_NOFILE, &before_); }

void AtOnce(const std::function<void()>& first, const std::function<void()>& second) {
  std::atomic<int> ready = 0;
  const auto start = [&ready](const std::function<void()>& run) {
    ++ready;
    while (ready < 2) std::this_thread::yield();
    run();
  };
  std::thread other([&] { start(second); });
  start(first);
  other.join();
}

}  // namespace rehome::testing
