// SPDX-License-Identifier: Apache-2.0
#include "client/cli/detach.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

#include "client/cli/exit_code.h"

namespace rehome {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

DetachOnInterrupt::DetachOnInterrupt(std::function<void()> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  const sigset_t set = InterruptSet();
  signal_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  // Without descriptors Ctrl-C ends the program as it always does; the migration goes on all the
  // same.
  if (!signal_.valid() || !stop_.valid()) return;
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread(&DetachOnInterrupt::Wait, this);
}

DetachOnInterrupt::~DetachOnInterrupt() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  // Cannot fail: the counter of a fresh eventfd has room.
  [[maybe_unused]] const ssize_t written = write(stop_.borrow().raw(), &one, sizeof(one));
  thread_.join();
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void DetachOnInterrupt::Wait() {
  std::array<pollfd, 2> waits = {pollfd{stop_.borrow().raw(), POLLIN, 0},
                                 pollfd{signal_.borrow().raw(), POLLIN, 0}};
  while (poll(waits.data(), waits.size(), -1) < 0 && errno == EINTR) {
  }
  if (waits[0].revents != 0 || waits[1].revents == 0) return;
  on_interrupt_();
  // Not exit(): the thread that waits for the daemon uses what exit() would destroy.
  _exit(static_cast<int>(ExitCode::kDetached));
}

}  // namespace rehome
