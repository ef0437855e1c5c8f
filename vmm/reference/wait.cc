// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/wait.h"

#include <thread>

namespace rehome {
namespace {

constexpr std::chrono::nanoseconds kSpin = std::chrono::microseconds(40);

}  // namespace

std::chrono::nanoseconds SpinBudget(uint32_t threads, BlackoutSteps without) {
  if (without.Has(BlackoutStep::kSpin)) return std::chrono::nanoseconds(0);
  return threads <= std::thread::hardware_concurrency() ? kSpin : std::chrono::nanoseconds(0);
}

}  // namespace rehome
