// SPDX-License-Identifier: Apache-2.0
//
// Cells whose blow falls into a rescue or a recovery, and what docs/recovery.md promises about
// each. Pure.
#ifndef REHOME_TESTS_CHAOS_LATE_CELL_H_
#define REHOME_TESTS_CHAOS_LATE_CELL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/chaos/cell.h"

namespace rehome::chaos {

// Where a daemon that has come back is held: at an append to its journal. Of one migration each
// append is a step; what comes between two is what the daemon does of it.
struct RecoveryPlace {
  const char* name;
  uint64_t append;  // the Nth of a record by that daemon
  bool is_before;   // held before it is written, else once it is
};
// In order:
//   replayed       the journal is read, nobody has been asked
//   asking         RECOVERING is on record
//   asked          both sides have been asked and have handed in what they have
//   decided        what was found is on record: ABORTING, FIRST_RUN or DISCARDING_TARGET
//   settled        that step is done
//   acting         its outcome is on record: RESCUING or FENCING
//   rebuilt        a rescue's target is prepared
//   handing-over   it is on record, and about to be armed
// What is after that is a rescue like any other.
std::vector<RecoveryPlace> RecoveryPlaces();
// By its name. REQUIRES: there is one of that name.
RecoveryPlace FindRecoveryPlace(const std::string& name);

// What the first blow has left of the guest.
enum class Standing : uint8_t {
  kStranded,  // only a rescue can run it
  kOnTarget,  // the target runs it
  kOnSource,  // the source runs it
};
Standing StandingAfter(const Variant& variant, const FirstBlow& first);

// The first target died where only a rescue goes on, and the next one is held at each place that a
// target passes.
std::vector<Cell> RescueCells(const Variant& variant, Blow blow);
// The daemon died, alone or not, and the next one is held at each place that it comes to.
std::vector<Cell> RecoveryCells(const Variant& variant, Blow blow);

// As the functions of cell.h without "Late". REQUIRES, of each: not within kHandover.
bool LateMayBeLost(const Cell& cell);
bool LateMayDieAsOwner(const Cell& cell, Side side);
bool LateMustSucceed(const Cell& cell);
bool LateMayBeIndeterminate(const Cell& cell);
bool LateGoesOnWithoutDaemon(const Cell& cell);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_LATE_CELL_H_
