// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C as an event, on a thread where anything may be done.
#ifndef REHOME_CLIENT_CLI_INTERRUPT_WATCH_H_
#define REHOME_CLIENT_CLI_INTERRUPT_WATCH_H_

#include <functional>
#include <thread>

#include "kvmglue/fd.h"

namespace rehome {

// While it lives, each SIGINT calls `on_interrupt` with its number, 1 for the first, on a thread of
// its own, where it may do anything (unlike in a signal handler). Signals that come while a call is
// at work count as one. Construct it before any other thread starts: they inherit the blocked
// signal. Without descriptors to spare SIGINT keeps its former effect.
class InterruptWatch {
 public:
  explicit InterruptWatch(std::function<void(int number)> on_interrupt);
  // SIGINT has its former effect again.
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

 private:
  void Wait();

  const std::function<void(int)> on_interrupt_;
  UniqueFd signal_;  // a signalfd for SIGINT
  UniqueFd stop_;    // readable once the thread is to end
  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_INTERRUPT_WATCH_H_
