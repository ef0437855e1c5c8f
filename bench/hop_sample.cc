// SPDX-License-Identifier: Apache-2.0
#include "bench/hop_sample.h"

#include <algorithm>

namespace rehome::bench {
namespace {

Summary SummaryOf(const HopSamples& samples, double HopSample::*field) {
  std::vector<double> values;
  for (const HopSample& sample : samples) values.push_back(sample.*field);
  return Summarize(std::move(values));
}

}  // namespace

Summary BlackoutOf(const HopSamples& samples) {
  return SummaryOf(samples, &HopSample::blackout_us);
}

Summary GuestGapOf(const HopSamples& samples) {
  return SummaryOf(samples, &HopSample::guest_gap_us);
}

std::vector<std::pair<std::string, double>> PhaseMedians(const HopSamples& samples) {
  // By the first sample's order; one that lacks a phase just does not count for it.
  std::vector<std::pair<std::string, std::vector<double>>> values;
  for (const HopSample& sample : samples) {
    for (const auto& [name, micros] : sample.phases_us) {
      auto found = std::find_if(values.begin(), values.end(),
                                [&name = name](const auto& entry) { return entry.first == name; });
      if (found == values.end()) found = values.insert(values.end(), {name, {}});
      found->second.push_back(micros);
    }
  }
  std::vector<std::pair<std::string, double>> medians;
  for (auto& [name, micros] : values) medians.emplace_back(name, Summarize(micros).p50);
  return medians;
}

}  // namespace rehome::bench
