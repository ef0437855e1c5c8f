// SPDX-License-Identifier: Apache-2.0
#include "bench/round_latency.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "vmm/reference/guest/rounds.h"

namespace rehome::bench {

void RoundLatency::Add(std::span<const uint64_t> counts, double longest_us, uint64_t tsc_khz) {
  counts_.resize(REHOME_GUEST_ROUND_BUCKETS);
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += counts[i];
  longest_us_ = std::max(longest_us_, longest_us);
  tsc_khz_ = tsc_khz;
}

uint64_t RoundLatency::rounds() const {
  return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0});
}

double RoundLatency::PercentileUs(double percent) const {
  // As percentile.cc has it.
  constexpr double kRounding = 1e-9;
  const auto rank = static_cast<uint64_t>(
      std::max(std::ceil(static_cast<double>(rounds()) * percent / 100 - kRounding), 1.0));
  uint64_t seen = 0;
  for (uint32_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen < rank) continue;
    const auto end = static_cast<double>(rehome_guest_round_least(i + 1));
    return std::min(end * 1000 / static_cast<double>(tsc_khz_), longest_us_);
  }
  return 0;
}

}  // namespace rehome::bench
