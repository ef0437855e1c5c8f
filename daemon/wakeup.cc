// SPDX-License-Identifier: Apache-2.0
#include "daemon/wakeup.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {

absl::StatusOr<Wakeup> Wakeup::Create() {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                      absl::StrCat("eventfd: ", strerror(errno)));
  }
  return Wakeup(std::move(event));
}

void Wakeup::Signal() {
  // Fails only when the counter is full, and then it is signalled.
  const uint64_t one = 1;
  (void)Uninterrupted([&] { return write(event_.borrow().raw(), &one, sizeof(one)); });
}

void Wakeup::Clear() {
  uint64_t count = 0;
  (void)Uninterrupted([&] { return read(event_.borrow().raw(), &count, sizeof(count)); });
}

Wakeup::Result Wakeup::Wait(std::chrono::steady_clock::time_point deadline,
                            const Interrupt* interrupt) {
  using std::chrono::nanoseconds;
  using std::chrono::steady_clock;
  constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;
  // poll(2) skips a negative descriptor.
  pollfd entries[2] = {{.fd = event_.borrow().raw(), .events = POLLIN, .revents = 0},
                       {.fd = -1, .events = POLLIN, .revents = 0}};
  if (interrupt != nullptr) entries[1].fd = interrupt->fd().raw();
  int ready = -1;
  do {
    // Compared, not subtracted first: a deadline may be the earliest time there is.
    const auto now = steady_clock::now();
    const nanoseconds left = deadline > now ? nanoseconds(deadline - now) : nanoseconds(0);
    const timespec timeout = {.tv_sec = left.count() / kNanosecondsPerSecond,
                              .tv_nsec = left.count() % kNanosecondsPerSecond};
    ready = ppoll(entries, 2, &timeout, nullptr);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return Result::kTimedOut;
  if (entries[0].revents == 0) return Result::kInterrupted;
  Clear();
  return Result::kSignalled;
}

}  // namespace rehome
