// SPDX-License-Identifier: Apache-2.0
//
// One run: a world, a daemon that dies and comes back, clients that ask it for things, and in the
// end the question what became of each guest.
#ifndef REHOME_TESTS_SIMULATOR_SIMULATION_H_
#define REHOME_TESTS_SIMULATOR_SIMULATION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulator/sim_daemon.h"
#include "tests/simulator/sim_journal.h"

namespace rehome::sim {

struct Plan {
  uint64_t seed = 1;
  bool verbose = false;
  Rules rules;
  bool service_manager = true;
  std::string sqlite_directory;  // "": in memory
  std::vector<Guest> guests;
  FaultPlan faults;
  int migrations = 1;  // that clients ask for, of any guest
  bool noise = false;  // cancels, duplicates and resolves at random times
  uint64_t daemon_dies_one_in = 0;
  std::vector<Micros> daemon_dies_at;
  std::vector<DeathAtAppend> daemon_dies_by_append;
  int daemon_deaths = 3;
  size_t lost_append = 0;
  // Called before each step of an agent; how a scenario meddles.
  std::function<void(World&, Process&)> before_step;
  // A client cancels once that is true of an agent; null: none does.
  std::function<bool(const Process&)> cancel_when;
};
// What the seed has in store.
Plan PlanOf(uint64_t seed);

struct Result {
  std::string violation;  // "": none
  std::vector<std::string> log;
  std::vector<Migration> records;
  size_t appends = 0;
  int deaths = 0;
  int resolves = 0;  // of what had ended undecided, in the end
  uint64_t steps = 0;
};

Result Simulate(const Plan& plan);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SIMULATION_H_
