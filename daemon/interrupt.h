// SPDX-License-Identifier: Apache-2.0
//
// How a cancel reaches a thread that waits in an effect. One per migration.
#ifndef REHOME_DAEMON_INTERRUPT_H_
#define REHOME_DAEMON_INTERRUPT_H_

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Thread-safe. Once raised it stays raised. Waiters poll() fd() together with what they wait for.
class Interrupt {
 public:
  static absl::StatusOr<std::unique_ptr<Interrupt>> Create();
  void Raise();
  bool raised() const;
  // An eventfd that is readable once raised.
  BorrowedFd fd() const;

 private:
  explicit Interrupt(UniqueFd event) : event_(std::move(event)) {}
  UniqueFd event_;
  std::atomic<bool> raised_ = false;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_INTERRUPT_H_
