// SPDX-License-Identifier: Apache-2.0
//
// What must be true once everything has come to rest.
#ifndef REHOME_TESTS_SIMULATOR_ENDING_H_
#define REHOME_TESTS_SIMULATOR_ENDING_H_

#include <vector>

#include "daemon/migration.h"
#include "tests/simulator/sim_escrow.h"
#include "tests/simulator/world.h"

namespace rehome::sim {

// `records`: newest first. `escrow_lost`: a daemon died and nobody kept its escrow.
void CheckEnding(World& world, const std::vector<Migration>& records, const SimStore& store,
                 bool escrow_lost);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_ENDING_H_
