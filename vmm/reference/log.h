// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_LOG_H_
#define REHOME_VMM_REFERENCE_LOG_H_

#include <string>

#include "absl/strings/str_format.h"

namespace rehome {

// One line to stderr, in one write(2): "rehome-vmm[PID]: LINE". Nothing in a blackout logs.
void LogLine(const std::string& line);

template <typename... Args>
void Log(const absl::FormatSpec<Args...>& format, const Args&... args) {
  LogLine(absl::StrFormat(format, args...));
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_LOG_H_
