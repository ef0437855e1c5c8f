// SPDX-License-Identifier: Apache-2.0
#include "client/cli/interrupt_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

namespace rehome {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

InterruptWatch::InterruptWatch(std::function<void(int)> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  const sigset_t set = InterruptSet();
  signal_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal_.valid() || !stop_.valid()) return;
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread(&InterruptWatch::Wait, this);
}

InterruptWatch::~InterruptWatch() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  // Cannot fail: the counter of a fresh eventfd has room.
  [[maybe_unused]] const ssize_t written = write(stop_.borrow().raw(), &one, sizeof(one));
  thread_.join();
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void InterruptWatch::Wait() {
  for (int number = 1;; ++number) {
    std::array<pollfd, 2> waits = {pollfd{stop_.borrow().raw(), POLLIN, 0},
                                   pollfd{signal_.borrow().raw(), POLLIN, 0}};
    while (poll(waits.data(), waits.size(), -1) < 0 && errno == EINTR) {
    }
    if (waits[0].revents != 0 || waits[1].revents == 0) return;
    signalfd_siginfo taken;
    if (read(signal_.borrow().raw(), &taken, sizeof(taken)) != sizeof(taken)) return;
    on_interrupt_(number);
  }
}

}  // namespace rehome
