// SPDX-License-Identifier: Apache-2.0
//
// What a simulated daemon holds of a migration, and where it is kept when the daemon dies.
#ifndef REHOME_TESTS_SIMULATOR_SIM_ESCROW_H_
#define REHOME_TESTS_SIMULATOR_SIM_ESCROW_H_

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/rescue_rules.h"
#include "tests/simulator/world.h"

namespace rehome::sim {

struct SimEscrow {
  std::shared_ptr<Block> block;  // of the latest target
  std::shared_ptr<Block> saved;  // in a rescue: the source's, with the state
  bool block_is_rescues = false;
  bool memory = false;
  std::shared_ptr<KvmVm> source_vm;
  std::shared_ptr<KvmVm> target_vm;  // of the latest target
  // Where the context can be, most likely first; empty: at the source. As in escrow.h.
  std::vector<std::shared_ptr<KvmVm>> context;
  bool target_settled = false;
  bool store_was_empty = false;

  const std::shared_ptr<Block>& StateBlock() const { return saved != nullptr ? saved : block; }
  bool HoldsGuest(bool moves, bool source_vm_dead) const {
    const bool of_dead_target =
        std::any_of(context.begin(), context.end(), [](const auto& vm) { return vm != nullptr; });
    return rehome::HoldsGuest({.block = block != nullptr,
                               .memory = memory,
                               .source_vm = source_vm != nullptr,
                               .target_vm = of_dead_target || target_vm != nullptr},
                              moves, source_vm_dead);
  }
};

// What a service manager keeps of one migration (daemon/escrow_keeping.h).
struct Stored {
  std::shared_ptr<Block> block;
  std::shared_ptr<Block> rescue_block;
  std::shared_ptr<KvmVm> source_vm;
  std::shared_ptr<KvmVm> target_vm;
  std::vector<std::shared_ptr<KvmVm>> rescue_vms;
};
using SimStore = std::map<std::string, Stored>;  // by migration

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SIM_ESCROW_H_
