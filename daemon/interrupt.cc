// SPDX-License-Identifier: Apache-2.0
#include "daemon/interrupt.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {

absl::StatusOr<std::unique_ptr<Interrupt>> Interrupt::Create() {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) {
    const int error = errno;
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                      absl::StrCat("eventfd: ", std::strerror(error)));
  }
  return std::unique_ptr<Interrupt>(new Interrupt(std::move(event)));
}

bool Interrupt::Raise(StopCause cause) {
  StopCause none = StopCause::kNone;
  if (!cause_.compare_exchange_strong(none, cause)) return false;
  const uint64_t one = 1;
  // Cannot fail: the descriptor is ours, and a first write of 1 does not overflow the counter.
  (void)Uninterrupted([&] { return write(event_.borrow().raw(), &one, sizeof(one)); });
  return true;
}

StopCause Interrupt::cause() const { return cause_.load(); }

BorrowedFd Interrupt::fd() const { return event_.borrow(); }

}  // namespace rehome
