// SPDX-License-Identifier: Apache-2.0
//
// The one source of chance of a simulation: the same seed gives the same run on every host, which
// the distributions of <random> do not promise.
#ifndef REHOME_TESTS_SIMULATOR_RANDOM_H_
#define REHOME_TESTS_SIMULATOR_RANDOM_H_

#include <cstdint>

namespace rehome::sim {

// splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t value = state_;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }
  // 0 to bound - 1. REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  // Both ends included.
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_RANDOM_H_
