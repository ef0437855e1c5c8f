// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/pattern.h"

#include <algorithm>
#include <cstring>

namespace rehome::linux_guest {

void FillPattern(uint64_t seed, std::span<std::byte> out) {
  const uint64_t base = Mix(seed);
  uint64_t index = 0;
  while (!out.empty()) {
    const uint64_t word = Mix(base + index++);
    const size_t part = std::min(out.size(), sizeof(word));
    memcpy(out.data(), &word, part);
    out = out.subspan(part);
  }
}

// Each step is a bijection of the sum for a given word and of the word for a given sum.
uint64_t Checksum(std::span<const std::byte> bytes) {
  uint64_t sum = Mix(bytes.size());
  while (!bytes.empty()) {
    uint64_t word = 0;
    const size_t part = std::min(bytes.size(), sizeof(word));
    memcpy(&word, bytes.data(), part);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 32;
    bytes = bytes.subspan(part);
  }
  return sum;
}

}  // namespace rehome::linux_guest
