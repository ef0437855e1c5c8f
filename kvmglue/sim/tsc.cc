// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/tsc.h"

#include <x86intrin.h>

#include <chrono>

namespace rehome::sim {
namespace {

uint32_t Measure() {
  using Clock = std::chrono::steady_clock;
  constexpr auto kWindow = std::chrono::milliseconds(2);
  const Clock::time_point start = Clock::now();
  const uint64_t first = __rdtsc();
  Clock::duration elapsed{};
  while (elapsed < kWindow) elapsed = Clock::now() - start;
  const uint64_t ticks = __rdtsc() - first;
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count();
  return static_cast<uint32_t>(ticks * 1'000'000 / static_cast<uint64_t>(ns));
}

}  // namespace

uint32_t HostTscKhz() {
  static const uint32_t khz = Measure();
  return khz;
}

}  // namespace rehome::sim
