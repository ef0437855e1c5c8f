// SPDX-License-Identifier: Apache-2.0
#include "daemon/effect_context.h"

#include <poll.h>

#include <utility>

#include "kvmglue/status_reason.h"

namespace rehome {

Outcome FailedOutcome(Event event, const absl::Status& status, Migration update) {
  const std::string reason = ReasonOf(status);
  if (reason == "INTERRUPTED") event = Event::kInterrupted;
  return {event, Failure{reason, std::string(status.message())}, std::move(update)};
}

bool HasExited(BorrowedFd pidfd) { return AwaitExit(pidfd, std::chrono::milliseconds(0)); }

bool AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout) {
  pollfd poll_fd{.fd = pidfd.raw(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, static_cast<int>(timeout.count())) == 1 &&
         (poll_fd.revents & POLLIN) != 0;
}

}  // namespace rehome
