// SPDX-License-Identifier: Apache-2.0
//
// Ctrl-C while waiting: the program ends at once, the migration goes on.
#ifndef REHOME_CLIENT_CLI_DETACH_H_
#define REHOME_CLIENT_CLI_DETACH_H_

#include <functional>

#include "client/cli/interrupt_watch.h"

namespace rehome {

// While it lives, SIGINT calls `on_interrupt` on a thread of its own and then ends the process with
// ExitCode::kDetached. Construct it before any other thread starts, as an InterruptWatch. Without
// descriptors to spare Ctrl-C ends the program as it always does; the migration goes on all the
// same.
class DetachOnInterrupt {
 public:
  explicit DetachOnInterrupt(std::function<void()> on_interrupt);

 private:
  const InterruptWatch watch_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_DETACH_H_
