// SPDX-License-Identifier: Apache-2.0
//
// One cell of the kill matrix, with real processes on a host of its own: a guest, a migration that
// is held at a place, the blow, and the judgement of what became of them.
#ifndef REHOME_TESTS_CHAOS_CELL_RUN_H_
#define REHOME_TESTS_CHAOS_CELL_RUN_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/chaos/cell.h"

namespace rehome::chaos {

// In the handover block of every cell within a handover: without its daemon the guest runs again
// when both have passed, at the latest.
inline constexpr std::chrono::milliseconds kClaimTimeout{200};
inline constexpr std::chrono::milliseconds kResolveTimeout{400};
inline constexpr std::chrono::milliseconds kBlackoutDeadline = kClaimTimeout + kResolveTimeout;
// In that of the others, by what the cell's blow is. Where nobody hangs they are not waited for,
// and a busy host is not to decide the cell; a target that fences by itself waits for half of the
// second.
inline constexpr std::chrono::milliseconds kLateKillClaim{2'000}, kLateKillResolve{2'000};
inline constexpr std::chrono::milliseconds kLateStopClaim{500}, kLateStopResolve{500};
// On a host with more to do than it can, a migration may end at one of its deadlines before it has
// come to the cell's phase. Then it is tried on a new host, with the guest of the first one judged
// as well. One try in ten ends so at a load of 15: in eight of them in a row a phase is not missed.
inline constexpr int kMaxAttempts = 8;

enum class Outcome : uint8_t {
  kHeld,          // one process runs the guest, and it is the same guest
  kLostHonestly,  // nobody does, the record says so, and nobody could
  kBroken,
};

struct CellResult {
  Outcome outcome = Outcome::kBroken;
  // "source", "target", "lost"; before it "resolved, " if it was INDETERMINATE for a while, or "by
  // hand, " if only the end of its source resolved it.
  std::string ending;
  std::vector<std::string> faults;
  std::vector<std::string> leftovers;
  // How long the guest stood still in all, where its daemon alone was killed in mid-handover; in
  // other cells nothing.
  std::optional<std::chrono::milliseconds> orphaned_standstill;
  // The part of it in which this program held a VMM at the cell's phase, waiting for the killed
  // daemon to be gone. A source that is held in its pause acts on no deadline.
  std::chrono::milliseconds held_for{0};
  int attempts = 0;  // until a migration came to the cell's phase
  std::chrono::milliseconds took{0};
  std::string logs;  // of every process, unless all is well
};

// Blocks for a second, or with something amiss for a minute. Several threads may run cells at once.
CellResult RunCell(const Cell& cell);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_CELL_RUN_H_
