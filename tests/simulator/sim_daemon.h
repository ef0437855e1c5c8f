// SPDX-License-Identifier: Apache-2.0
//
// What the effects of a simulated daemon share: the world that they act on, the daemon's life, and
// the product's decisions, which a test may replace to see whether the simulator notices.
#ifndef REHOME_TESTS_SIMULATOR_SIM_DAEMON_H_
#define REHOME_TESTS_SIMULATOR_SIM_DAEMON_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "daemon/effects.h"
#include "daemon/recovery_effects.h"
#include "daemon/settlement.h"
#include "tests/simulator/sim_escrow.h"
#include "tests/simulator/world.h"

namespace rehome::sim {

struct Rules {
  std::function<Action(const Observation&)> settle = Settle;
  std::function<Event(const Findings&)> event_of = EventOf;
};

// One thread at a time has the world: the one that runs the simulation, while the gate is closed,
// or the registry's worker, while it is open.
class Gate {
 public:
  // The caller's thread is the owner from now on.
  void Close();
  void Open();
  // Waits until it is open, unless the owner calls.
  void Pass();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  std::thread::id owner_;
};

struct SimDaemon {
  World* world = nullptr;
  VmDirectory* vms = nullptr;
  SimStore* store = nullptr;  // null: no service manager
  Rules rules;
  Gate gate;
  std::atomic<bool> dead = false;  // also read by the thread that waits for the worker
  // While the daemon waits in the blackout, one in so many of the world's steps is its last; 0:
  // none.
  uint64_t dies_one_in = 0;
  int deaths_left = 0;
  int deaths = 0;

  // From now on it does nothing any more, though its threads still run.
  void Die(const std::string& how);
};

std::unique_ptr<EffectsFactory> NewSimEffectsFactory(SimDaemon* daemon);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SIM_DAEMON_H_
