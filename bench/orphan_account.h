// SPDX-License-Identifier: Apache-2.0
//
// What `./dev bench orphan` makes of its samples.
#ifndef REHOME_BENCH_ORPHAN_ACCOUNT_H_
#define REHOME_BENCH_ORPHAN_ACCOUNT_H_

#include <string>
#include <vector>

namespace rehome::bench {

// What the project promises: a guest without its daemon runs again so soon after its deadline.
inline constexpr double kMaxLateMs = 10;

// A guest whose daemon was killed in the midst of its handover.
struct OrphanSample {
  std::string place;  // where the daemon died: "map-after target:claimed"
  double standstill_ms = 0;
};

struct OrphanPlace {
  std::string place;
  size_t count = 0;
  double p50_ms = 0;       // standstill
  double max_ms = 0;       // standstill
  double p50_late_ms = 0;  // beyond the deadline; 0: within it
  double max_late_ms = 0;
};

// One for each place, in the order of the first sample of each, and one called "all" at the end.
// Empty without samples.
std::vector<OrphanPlace> Account(const std::vector<OrphanSample>& samples, double deadline_ms);

// Whether the last of `places` keeps the promise; not without samples.
bool KeepsPromise(const std::vector<OrphanPlace>& places);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_ORPHAN_ACCOUNT_H_
