// SPDX-License-Identifier: Apache-2.0
#include "bench/percentile.h"

#include <algorithm>
#include <cmath>

namespace rehome::bench {

double Percentile(std::span<const double> sorted, double percent) {
  if (sorted.empty()) return 0;
  // 99 % of 200 must be 198, which binary fractions make 198.00000000000003.
  constexpr double kRounding = 1e-9;
  const double rank = std::ceil(static_cast<double>(sorted.size()) * percent / 100 - kRounding);
  return sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

Summary Summarize(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return {.count = samples.size(),
          .p50 = Percentile(samples, 50),
          .p99 = Percentile(samples, 99),
          .max = Percentile(samples, 100)};
}

}  // namespace rehome::bench
