// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_WAIT_H_
#define REHOME_VMM_REFERENCE_WAIT_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "vmm/reference/blackout_steps.h"

namespace rehome {

// How long threads of one VMM spin for each other in a blackout before they sleep: about what a
// futex wake-up costs. 0 where there are fewer CPUs than threads, since there spinning takes the
// CPU from whoever is waited for, and without BlackoutStep::kSpin.
std::chrono::nanoseconds SpinBudget(uint32_t threads, BlackoutSteps without);

// Waits until `word` is at least `value`: spins for `spin`, then sleeps. Whoever stores must
// notify.
inline void AwaitAtLeast(const std::atomic<uint32_t>& word, uint32_t value,
                         std::chrono::nanoseconds spin) {
  if (word.load(std::memory_order_acquire) >= value) return;
  const auto end = std::chrono::steady_clock::now() + spin;
  while (std::chrono::steady_clock::now() < end) {
    if (word.load(std::memory_order_acquire) >= value) return;
    __builtin_ia32_pause();
  }
  for (;;) {
    const uint32_t seen = word.load(std::memory_order_acquire);
    if (seen >= value) return;
    word.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_WAIT_H_
