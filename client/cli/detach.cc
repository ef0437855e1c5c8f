// SPDX-License-Identifier: Apache-2.0
#include "client/cli/detach.h"

#include <unistd.h>

#include <utility>

#include "client/cli/exit_code.h"

namespace rehome {

DetachOnInterrupt::DetachOnInterrupt(std::function<void()> on_interrupt)
    : watch_([on_interrupt = std::move(on_interrupt)](int /*number*/) {
        on_interrupt();
        // Not exit(): the thread that waits for the daemon uses what exit() would destroy.
        _exit(static_cast<int>(ExitCode::kDetached));
      }) {}

}  // namespace rehome
