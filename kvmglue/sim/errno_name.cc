// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/errno_name.h"

#include <cstring>

namespace rehome {
namespace {

// Above the highest errno of Linux (EHWPOISON, 133).
constexpr int kErrnoEnd = 134;

}  // namespace

std::optional<int> ErrnoFromName(std::string_view name) {
  for (int error = 1; error < kErrnoEnd; ++error) {
    const char* known = strerrorname_np(error);
    if (known != nullptr && name == known) return error;
  }
  return std::nullopt;
}

}  // namespace rehome
