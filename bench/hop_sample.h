// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_HOP_SAMPLE_H_
#define REHOME_BENCH_HOP_SAMPLE_H_

#include <string>
#include <utility>
#include <vector>

#include "bench/percentile.h"

namespace rehome::bench {

// One hop as it was measured, microseconds.
struct HopSample {
  double blackout_us = 0;
  double guest_gap_us = 0;
  std::vector<std::pair<std::string, double>> phases_us;  // in order; they add up to the blackout
};

using HopSamples = std::vector<HopSample>;

Summary BlackoutOf(const HopSamples& samples);
Summary GuestGapOf(const HopSamples& samples);
// The median of each phase, in order. They need not add up to the median of the blackout.
std::vector<std::pair<std::string, double>> PhaseMedians(const HopSamples& samples);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_HOP_SAMPLE_H_
