// SPDX-License-Identifier: Apache-2.0
//
// What to do about a handover that did not go through: a pure function of all that can be seen.
// docs/recovery.md ("Settling") and docs/handover.md argue; vmm/agent/handover_model.cc walks
// through every order in which such decisions can meet. The effect only looks, asks, acts, and
// looks again.
#ifndef REHOME_DAEMON_SETTLEMENT_H_
#define REHOME_DAEMON_SETTLEMENT_H_

#include <cstdint>

#include "daemon/migration.h"

namespace rehome {

// What is known of the source. Only its own process can tell its VM's life.
enum class SourceSight : uint8_t {
  kDead = 1,       // its process is proven dead
  kRunsGuest = 2,  // it says that the guest runs there
  kPaused = 3,     // it says that its VM is alive and the guest does not run
  kVmDead = 4,     // it says that its VM is dead, by EIO, and does not run the guest
  kSilent = 5,     // its process lives and says nothing that can be relied on
  // As kVmDead, by the word of an agent without feature EXACT: any failure may be behind it. Enough
  // for a rescue where the verdict says the same; never enough to end the process.
  kVmDeadUnproven = 6,
};
inline constexpr int kSourceSightCount = 6;

struct Observation {
  uint32_t verdict = 0;      // as it stands in the block; may be no verdict at all
  bool state_saved = false;  // source_ready: the block holds a complete state
  uint32_t fence = 0;        // the fence word
  bool moves = false;        // the strategy has MOVE
  FencePolicy policy = FencePolicy::kBeforeResume;
  SourceSight source = SourceSight::kSilent;
  bool target_dead = false;  // proven
  bool overdue = false;      // both deadlines of the block have passed, with a margin
  bool can_rescue = false;   // the escrow holds all that another target needs
  // On record since before the verdict became ABORTED: the source cannot have gone on from it.
  bool source_was_out = false;
};

enum class Action : uint8_t {
  // The matter is settled.
  kRunning = 1,   // the target has the guest
  kResumed = 2,   // the source has it
  kLost = 3,      // nobody has it, and nobody can get it
  kStranded = 4,  // nobody can run it but a rescue's target
  // Something to do; then look again.
  kWait = 5,             // whose turn it is acts without us, or is waited for
  kAbortOpen = 6,        // OPEN to ABORTED
  kAbortCommitted = 7,   // COMMITTED to ABORTED, from a target that hangs or is dead
  kKillTarget = 8,       // it has lost
  kCondemnTarget = 9,    // condemn it, read the verdict again, kill it
  kFinishFence = 10,     // the source is condemned: kill it, prove that it stopped
  kAnnounceProof = 11,   // the source is dead: fence word to PROVEN
  kEndEmptySource = 12,  // its VM is dead and nothing can follow: its end makes the loss a proof
};
inline constexpr int kActionCount = 12;
const char* ActionName(Action action);

// Total. Never an answer by which two could run the guest, or by which the only one that may have
// it is killed without a way to go on.
Action Settle(const Observation& seen);

}  // namespace rehome

#endif  // REHOME_DAEMON_SETTLEMENT_H_
