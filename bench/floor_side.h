// SPDX-License-Identifier: Apache-2.0
//
// Both sides of the comparison, hop by hop: the floor (floor.cc) and the product.
#ifndef REHOME_BENCH_FLOOR_SIDE_H_
#define REHOME_BENCH_FLOOR_SIDE_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "bench/hop_sample.h"

namespace rehome::bench {

// What is moved, the same on both sides.
struct GuestShape {
  uint32_t vcpus = 1;
  uint64_t memory_mib = 64;
  // Its memory is a memfd, for kernels whose guest_memfd cannot be mapped (before 6.18).
  bool memfd = false;
};

// How long the guest runs before it is asked to move, and again before it is looked at: it must
// have its working set in the caches and page tables again, on both sides.
inline constexpr int kDwellMs = 20;

// Starts a guest, moves it `hops` times through the floor, and ends it. The floor's own words are
// in the error.
absl::StatusOr<HopSamples> RunFloor(const GuestShape& shape, int hops);

// The lines that the floor prints.
absl::StatusOr<HopSamples> ParseFloorOutput(std::string_view text);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FLOOR_SIDE_H_
