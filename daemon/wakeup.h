// SPDX-License-Identifier: Apache-2.0
//
// How one thread tells another that there is something to look at, where the other also waits for a
// deadline and an Interrupt.
#ifndef REHOME_DAEMON_WAKEUP_H_
#define REHOME_DAEMON_WAKEUP_H_

#include <chrono>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/interrupt.h"
#include "kvmglue/fd.h"

namespace rehome {

// An eventfd, because an Interrupt is one: poll(2) can wait for both, a condition variable cannot.
// Signal() may be called from any thread, any number of times; Wait() by one thread.
class Wakeup {
 public:
  // RESOURCE_EXHAUSTED / FD_LIMIT without a descriptor left.
  static absl::StatusOr<Wakeup> Create();

  void Signal();

  enum class Result { kSignalled, kInterrupted, kTimedOut };
  // Waits until signalled, or `interrupt` (may be null) is raised, or the deadline has passed; in
  // this order if several are true. A signal that came before is not lost; kSignalled uses up all
  // signals so far.
  Result Wait(std::chrono::steady_clock::time_point deadline, const Interrupt* interrupt);

  // Readable while there is a signal that was not used up, for an epoll; Clear() uses it up.
  BorrowedFd fd() const { return event_.borrow(); }
  void Clear();

 private:
  explicit Wakeup(UniqueFd event) : event_(std::move(event)) {}
  UniqueFd event_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_WAKEUP_H_
