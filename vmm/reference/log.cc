// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/log.h"

#include <unistd.h>

namespace rehome {

void LogLine(const std::string& line) {
  const std::string text = absl::StrFormat("rehome-vmm[%d]: %s\n", getpid(), line);
  // Nobody to tell if this fails.
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace rehome
