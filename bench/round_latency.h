// SPDX-License-Identifier: Apache-2.0
//
// The distribution of what the guest's rounds take, made of its own histogram
// (vmm/reference/guest/rounds.h).
#ifndef REHOME_BENCH_ROUND_LATENCY_H_
#define REHOME_BENCH_ROUND_LATENCY_H_

#include <cstdint>
#include <span>
#include <vector>

namespace rehome::bench {

// Histograms of several guests, or of one in several periods, as one.
class RoundLatency {
 public:
  // `counts` by bucket, `longest_us` the longest round in them, which the guest knows exactly.
  // REQUIRES: all that is added is of guests with the same `tsc_khz`, and
  // REHOME_GUEST_ROUND_BUCKETS long.
  void Add(std::span<const uint64_t> counts, double longest_us, uint64_t tsc_khz);

  uint64_t rounds() const;
  double longest_us() const { return longest_us_; }
  // Nearest rank, as bench/percentile.h: `percent` % of the rounds took no longer. The end of the
  // bucket that it is in, so up to 1/16 more than it was, and never more than the longest. 0
  // without rounds. REQUIRES: 0 < percent <= 100.
  double PercentileUs(double percent) const;

 private:
  std::vector<uint64_t> counts_;
  double longest_us_ = 0;
  uint64_t tsc_khz_ = 0;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_ROUND_LATENCY_H_
