// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/chain.h"

#include "bench/linux_guest/pattern.h"

namespace rehome::linux_guest {
namespace {

using Vector = uint64_t __attribute__((vector_size(kVectorLanes * sizeof(uint64_t))));

// Odd, and 1 modulo 4 as full period asks for.
constexpr std::array<uint64_t, kLanes> kFactor = {0x5851f42d4c957f2d, 0xd1342543de82ef95,
                                                  0xaf251af3b0f025b5, 0x27bb2ee687b0b0fd};
constexpr std::array<uint64_t, kLanes> kAddend = {0x14057b7ef767814f, 0x2545f4914f6cdd1d,
                                                  0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9};

}  // namespace

ChainState ChainStart(uint64_t run, uint32_t index) {
  ChainState state;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    state.lanes[lane] = Mix(run ^ Mix(index * kLanes + lane));
  }
  return state;
}

void AdvanceChain(ChainState& state, uint64_t count) {
  uint64_t first = state.lanes[0];
  uint64_t second = state.lanes[1];
  Vector rest = {state.lanes[2], state.lanes[3]};
  const Vector factor = {kFactor[2], kFactor[3]};
  const Vector addend = {kAddend[2], kAddend[3]};
  for (uint64_t i = 0; i < count; ++i) {
    first = first * kFactor[0] + kAddend[0];
    second = second * kFactor[1] + kAddend[1];
    rest = rest * factor + addend;
    // Each step by itself, in its registers: a compiler that unrolled or skipped would leave less
    // of them to be lost.
    asm volatile("" : "+r"(first), "+r"(second), "+x"(rest));
  }
  state.lanes = {first, second, rest[0], rest[1]};
  state.steps += count;
}

ChainState ChainAfter(uint64_t run, uint32_t index, uint64_t steps) {
  ChainState state = ChainStart(run, index);
  state.steps = steps;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    // x -> factor * x + addend is as many steps as the bit of `left` that is looked at is worth.
    uint64_t factor = kFactor[lane];
    uint64_t addend = kAddend[lane];
    for (uint64_t left = steps; left != 0; left >>= 1) {
      if (left & 1) state.lanes[lane] = state.lanes[lane] * factor + addend;
      addend = factor * addend + addend;
      factor *= factor;
    }
  }
  return state;
}

}  // namespace rehome::linux_guest
