// SPDX-License-Identifier: Apache-2.0
//
// One cell of the kill matrix, with real processes on a host of its own: a guest, a migration that
// is held at a place, the blow, and the judgement of what became of them.
#ifndef REHOME_TESTS_CHAOS_CELL_RUN_H_
#define REHOME_TESTS_CHAOS_CELL_RUN_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/chaos/cell.h"

namespace rehome::chaos {

// In the handover block of every cell; the guest never stands still longer than both together.
inline constexpr std::chrono::milliseconds kClaimTimeout{200};
inline constexpr std::chrono::milliseconds kResolveTimeout{400};
// For a killed process to stop and a thread to be scheduled, on two cores with other tests on them.
// On a quiet machine it is below 10 ms, which bench/ measures.
inline constexpr std::chrono::milliseconds kLoadMargin{400};

enum class Outcome : uint8_t {
  kHeld,          // one process runs the guest, and it is the same guest
  kLostHonestly,  // nobody does, the record says so, and nobody could
  kBroken,
};

struct CellResult {
  Outcome outcome = Outcome::kBroken;
  std::string ending;  // "source", "target", "rescued", "lost"; before it "resolved, " if it was
                       // INDETERMINATE for a while
  std::vector<std::string> faults;
  std::vector<std::string> leftovers;
  // How long the guest stood still with the daemon dead; 0 where the daemon was not the only
  // victim.
  std::chrono::milliseconds orphaned_standstill{0};
  std::string logs;  // of every process, unless all is well
};

// Blocks for a second, or with something amiss for a minute. Several threads may run cells at once.
CellResult RunCell(const Cell& cell);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_CELL_RUN_H_
