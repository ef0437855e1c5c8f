// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C while waiting: the program ends at once, the migration goes on.
#ifndef REHOME_CLIENT_CLI_DETACH_H_
#define REHOME_CLIENT_CLI_DETACH_H_

#include <functional>
#include <thread>

#include "kvmglue/fd.h"

namespace rehome {

// While it lives, SIGINT calls `on_interrupt` on a thread of its own, where it may do anything
// (unlike in a signal handler), and then ends the process with ExitCode::kDetached. Construct it
// before any other thread starts: they inherit the blocked signal.
class DetachOnInterrupt {
 public:
  explicit DetachOnInterrupt(std::function<void()> on_interrupt);
  // SIGINT has its former effect again.
  ~DetachOnInterrupt();
  DetachOnInterrupt(const DetachOnInterrupt&) = delete;
  DetachOnInterrupt& operator=(const DetachOnInterrupt&) = delete;

 private:
  void Wait();

  const std::function<void()> on_interrupt_;
  UniqueFd signal_;  // a signalfd for SIGINT
  UniqueFd stop_;    // readable once the thread is to end
  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_DETACH_H_
