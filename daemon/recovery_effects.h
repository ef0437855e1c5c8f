// SPDX-License-Identifier: Apache-2.0
//
// What a daemon does that takes a migration over from one that ended (docs/recovery.md, "Restart"):
// collect whatever is left of it, ask, and start nothing.
#ifndef REHOME_DAEMON_RECOVERY_EFFECTS_H_
#define REHOME_DAEMON_RECOVERY_EFFECTS_H_

#include <cstdint>
#include <optional>

#include "daemon/effect_context.h"
#include "daemon/settlement.h"

namespace rehome {

// Fills the escrow of a migration whose driver ended with its daemon: pidfds by the identities on
// record (invalid: proven gone), descriptors from the store or else from the agents, connections of
// both sides. What cannot be had stays absent, with a link that says AGENT_GONE in its place; the
// effects can do with that. RESOURCE_EXHAUSTED / FD_LIMIT: a process could not be looked at, so
// nothing may be concluded.
absl::Status Rebuild(EffectContext& context, const Migration& record);

// Looks, asks, and answers with the one event that is beyond doubt, or kStuck: AbortEffect is to
// settle it.
Outcome RecoverEffect(EffectContext& context, Migration record);

// All that RecoverEffect decides by.
struct Findings {
  bool before_start = false;  // no START was journalled, so none was sent
  SourceSight source = SourceSight::kSilent;
  bool target_dead = false;              // proven
  bool target_runs_guest = false;        // it says that its first run has come back
  std::optional<uint32_t> verdict = {};  // empty: nobody has shown us the block
  // What it takes to call a guest lost whose source lives, when there is no verdict.
  bool moves = false;             // the strategy has MOVE: what is gone from the source is gone
  bool target_on_record = false;  // a process, and no later record of another may be missing
  bool nothing_is_left = false;   // of the target, by answers and not by silence (NothingIsLeft())
  // A later record, or what is left of the guest, may exist and be out of our sight. Then two
  // deaths are no loss.
  bool in_doubt = false;
};
// Pure and total. Never kSourceLost while somebody might have the guest or might still get it.
Event EventOf(const Findings& found);
// Whether a living source has nothing to run, and nobody has what it had: the target is proven
// dead, and no block and no VM of it is left anywhere. Only then may that source be ended.
bool IsEmptiedForGood(const Findings& found);

// What a source said when it was asked for what it holds (HAND_IN).
enum class HandInAnswer : uint8_t {
  kNone = 1,     // it was not asked, or gave no answer to that question
  kNothing = 2,  // it has nothing to hand in, says an agent with feature EXACT
  kHandedIn = 3,
};

}  // namespace rehome

#endif  // REHOME_DAEMON_RECOVERY_EFFECTS_H_
