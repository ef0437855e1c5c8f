// SPDX-License-Identifier: Apache-2.0
//
// Bytes that look random and can be made again from a number, and a checksum. Not for secrets.
#ifndef REHOME_BENCH_LINUX_GUEST_PATTERN_H_
#define REHOME_BENCH_LINUX_GUEST_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace rehome::linux_guest {

// A bijection that spreads each bit of its argument over all of the result (SplitMix64).
constexpr uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Fills `out` with the pattern of `seed`. A longer pattern begins with the shorter one.
void FillPattern(uint64_t seed, std::span<std::byte> out);

// 64 bits; any single changed word changes it.
uint64_t Checksum(std::span<const std::byte> bytes);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_PATTERN_H_
