// SPDX-License-Identifier: Apache-2.0
#include "bench/orphan_account.h"

#include <algorithm>
#include <utility>

#include "bench/percentile.h"

namespace rehome::bench {
namespace {

OrphanPlace Line(std::string place, const std::vector<double>& standstills, double deadline_ms) {
  const Summary summary = Summarize(standstills);
  return {.place = std::move(place),
          .count = summary.count,
          .p50_ms = summary.p50,
          .max_ms = summary.max,
          .p50_late_ms = std::max(summary.p50 - deadline_ms, 0.0),
          .max_late_ms = std::max(summary.max - deadline_ms, 0.0)};
}

}  // namespace

std::vector<OrphanPlace> Account(const std::vector<OrphanSample>& samples, double deadline_ms) {
  std::vector<std::pair<std::string, std::vector<double>>> by_place;
  std::vector<double> all;
  for (const OrphanSample& sample : samples) {
    auto found = std::find_if(by_place.begin(), by_place.end(),
                              [&](const auto& entry) { return entry.first == sample.place; });
    if (found == by_place.end()) {
      found = by_place.insert(found, std::pair(sample.place, std::vector<double>()));
    }
    found->second.push_back(sample.standstill_ms);
    all.push_back(sample.standstill_ms);
  }
  std::vector<OrphanPlace> places;
  if (all.empty()) return places;
  for (const auto& [place, standstills] : by_place) {
    places.push_back(Line(place, standstills, deadline_ms));
  }
  places.push_back(Line("all", all, deadline_ms));
  return places;
}

bool KeepsPromise(const std::vector<OrphanPlace>& places) {
  return !places.empty() && places.back().max_late_ms <= kMaxLateMs;
}

}  // namespace rehome::bench
