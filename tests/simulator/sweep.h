// SPDX-License-Identifier: Apache-2.0
//
// A few stories of one migration, for the crash sweep: the daemon ends before and after each of its
// appends, once and twice.
#ifndef REHOME_TESTS_SIMULATOR_SWEEP_H_
#define REHOME_TESTS_SIMULATOR_SWEEP_H_

#include <string>
#include <vector>

#include "tests/simulator/simulation.h"

namespace rehome::sim {

struct Story {
  std::string name;
  Plan plan;                                         // without a crash of the daemon
  MigrationState ends = MigrationState::kSucceeded;  // then
  bool undecided = false;  // it was INDETERMINATE before that, and had to be resolved
};
std::vector<Story> Stories();

struct SweepResult {
  size_t cases = 0;
  std::vector<std::string> violations;  // each with the crashes that led to it
};
// Exhaustive over one crash and over two, the second also during the recovery from the first.
SweepResult Sweep(const Plan& plan);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SWEEP_H_
