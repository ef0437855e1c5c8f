// SPDX-License-Identifier: Apache-2.0
//
// What a vCPU computes all the time: four chains, two in general registers and two in a vector
// register. Each step is x -> a * x + c modulo 2^64 with an odd `a`. That is a bijection, so that a
// bit that is wrong once is wrong for good; and n steps are again such a map, found in log n
// squarings, so that hours of a guest's work are recomputed in microseconds.
#ifndef REHOME_BENCH_LINUX_GUEST_CHAIN_H_
#define REHOME_BENCH_LINUX_GUEST_CHAIN_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace rehome::linux_guest {

inline constexpr size_t kScalarLanes = 2;
inline constexpr size_t kVectorLanes = 2;
inline constexpr size_t kLanes = kScalarLanes + kVectorLanes;

struct ChainState {
  uint64_t steps = 0;
  std::array<uint64_t, kLanes> lanes = {};

  bool operator==(const ChainState&) const = default;
};

// Before the first step, of the vCPU `index` in the boot `run`.
ChainState ChainStart(uint64_t run, uint32_t index);

// `count` steps, one after the other.
void AdvanceChain(ChainState& state, uint64_t count);

// The same state by the short way.
ChainState ChainAfter(uint64_t run, uint32_t index, uint64_t steps);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_CHAIN_H_
