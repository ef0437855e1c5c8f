// SPDX-License-Identifier: Apache-2.0
//
// The one place where a figure is made of samples, so that floor, benchmarks and demo mean the same
// by p50 and p99.
#ifndef REHOME_BENCH_PERCENTILE_H_
#define REHOME_BENCH_PERCENTILE_H_

#include <cstddef>
#include <span>
#include <vector>

namespace rehome::bench {

// Nearest rank: the smallest sample that at least `percent` % of the samples do not exceed; always
// a value that was measured, never one in between. 0 for no samples. REQUIRES: `sorted` is
// ascending, 0 < percent <= 100.
double Percentile(std::span<const double> sorted, double percent);

struct Summary {
  size_t count = 0;
  double p50 = 0;
  double p99 = 0;
  double max = 0;
};

Summary Summarize(std::vector<double> samples);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_PERCENTILE_H_
