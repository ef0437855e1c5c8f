// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/eventually.h"

#include <poll.h>

namespace rehome::harness {
namespace {

// Often enough that nobody waits for the look, rarely enough that it takes no CPU from who is
// waited for.
constexpr int kLookAgainMs = 3;

}  // namespace

bool Eventually(std::chrono::milliseconds patience, const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    poll(nullptr, 0, kLookAgainMs);
  }
  return true;
}

}  // namespace rehome::harness
