// SPDX-License-Identifier: Apache-2.0
//
// How a cancel, a deadline or the daemon's end reaches a thread that waits in an effect. One per
// migration.
#ifndef REHOME_DAEMON_INTERRUPT_H_
#define REHOME_DAEMON_INTERRUPT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Who wants the migration to stop. Decides how it ends: CANCELLED, or FAILED with this reason.
enum class StopCause : uint8_t {
  kNone = 0,
  kCancelled = 1,
  kDeadline = 2,  // of the whole migration
  kShutdown = 3,  // of the daemon
};

// Thread-safe. Once raised it stays raised. Waiters poll() fd() together with what they wait for.
class Interrupt {
 public:
  // RESOURCE_EXHAUSTED / FD_LIMIT without a descriptor left.
  static absl::StatusOr<std::unique_ptr<Interrupt>> Create();
  // The first cause stays. True if this call was the first. REQUIRES: cause is not kNone.
  bool Raise(StopCause cause = StopCause::kCancelled);
  bool raised() const { return cause() != StopCause::kNone; }
  StopCause cause() const;
  // An eventfd that is readable once raised.
  BorrowedFd fd() const;

 private:
  explicit Interrupt(UniqueFd event) : event_(std::move(event)) {}
  UniqueFd event_;
  std::atomic<StopCause> cause_ = StopCause::kNone;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_INTERRUPT_H_
