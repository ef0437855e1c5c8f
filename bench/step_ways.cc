// SPDX-License-Identifier: Apache-2.0
#include "bench/step_ways.h"

#include <algorithm>
#include <cmath>

namespace rehome::bench {

std::span<const StepWay> AllStepWays() {
  static const std::vector<StepWay> kWays = {
      {"populate", "host page tables are made in advance", {"--populate=0"}},
      {"warm", "KVM's page tables are made in advance", {"--warm-ms=0"}},
      {"page-tables", "both of these", {"--populate=0", "--warm-ms=0"}},
      {"learn", "what a fresh vCPU holds is not set again", {"--blackout-without=learn"}},
      {"sync-regs", "registers go through kvm_run", {"--blackout-without=sync-regs"}},
      {"announce", "a vCPU's thread announces the state", {"--blackout-without=announce"}},
      {"parallel", "vCPUs are saved and restored at once", {"--blackout-without=parallel"}, 2},
      {"spin", "threads of a VMM spin 40 us for each other", {"--blackout-without=spin"}, 2},
      {"target-spins", "target spins 1 ms for the state", {"--spin-us=1000"}, 1, false},
  };
  return kWays;
}

std::vector<StepWay> StepWaysFor(const std::vector<std::string>& names, uint32_t vcpus) {
  std::vector<StepWay> ways;
  for (const StepWay& way : AllStepWays()) {
    const bool is_named =
        names.empty() || std::find(names.begin(), names.end(), way.name) != names.end();
    if (is_named && vcpus >= way.min_vcpus) ways.push_back(way);
  }
  return ways;
}

double RoundRatio(const HopSamples& with, const HopSamples& without) {
  return BlackoutOf(without).p50 / BlackoutOf(with).p50;
}

PhaseChange MostChangedPhase(const HopSamples& with, const HopSamples& without) {
  PhaseChange most;
  const auto before = PhaseMedians(with);
  for (const auto& [name, micros] : PhaseMedians(without)) {
    const auto same = std::find_if(before.begin(), before.end(), [&name = name](const auto& entry) {
      return entry.first == name;
    });
    if (same == before.end()) continue;
    const double change = micros - same->second;
    if (std::abs(change) > std::abs(most.micros)) most = {.phase = name, .micros = change};
  }
  return most;
}

}  // namespace rehome::bench
