// SPDX-License-Identifier: Apache-2.0
//
// The steps that keep the blackout short, each with what makes the reference VMM go without it.
#ifndef REHOME_BENCH_STEP_WAYS_H_
#define REHOME_BENCH_STEP_WAYS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/hop_sample.h"

namespace rehome::bench {

struct StepWay {
  const char* name;
  const char* title;                   // what is done
  std::vector<std::string> arguments;  // of every VMM, so that it is not
  uint32_t min_vcpus = 1;              // with fewer it makes no difference
  // False: the product does without it, because it did not pay; the arguments are what does it.
  bool is_taken = true;
};

// All, in the order in which they are shown.
std::span<const StepWay> AllStepWays();
// Those of `names` (all, if it is empty) that make a difference with so many vCPUs.
std::vector<StepWay> StepWaysFor(const std::vector<std::string>& names, uint32_t vcpus);

// What the step's absence did in one round, as factor of the blackout's p50. REQUIRES: both sides
// have samples.
double RoundRatio(const HopSamples& with, const HopSamples& without);

// The phase whose median differs most between the two, and by how much (us, positive: longer
// without the step). "" if there are no phases.
struct PhaseChange {
  std::string phase;
  double micros = 0;
};
PhaseChange MostChangedPhase(const HopSamples& with, const HopSamples& without);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_STEP_WAYS_H_
