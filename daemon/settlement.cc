// SPDX-License-Identifier: Apache-2.0
#include "daemon/settlement.h"

#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

using enum Action;

// Whether the source cannot run the guest any more. Where its agent's word alone is no proof, the
// target's has to say the same: MOVE has succeeded.
bool IsOut(const Observation& seen) {
  if (seen.source == SourceSight::kDead || seen.source == SourceSight::kVmDead) return true;
  return seen.source == SourceSight::kVmDeadUnproven && seen.moves &&
         seen.verdict == REHOME_VERDICT_COMMITTED;
}

bool CanGoOn(const Observation& seen) { return seen.can_rescue && seen.state_saved; }

// The source is out and the target is dead: only the escrow is left, or nothing.
Action LastResort(const Observation& seen) {
  if (CanGoOn(seen)) return kStranded;
  if (seen.source == SourceSight::kDead) return kLost;
  return seen.source == SourceSight::kVmDead ? kEndEmptySource : kWait;
}

Action SettleAborted(const Observation& seen) {
  // Before the target's death: whoever has the guest is not kept waiting for a report.
  if (seen.source == SourceSight::kRunsGuest) return kResumed;
  if (!seen.target_dead) return kKillTarget;
  switch (seen.source) {
    case SourceSight::kDead:
      // It may have gone on from the saved state before it died; then that state is history.
      return seen.source_was_out ? LastResort(seen) : kLost;
    case SourceSight::kVmDead:
      return LastResort(seen);  // it said itself that it has not gone on
    case SourceSight::kVmDeadUnproven:
      return seen.source_was_out ? LastResort(seen) : kWait;
    case SourceSight::kRunsGuest:
    case SourceSight::kPaused:
    case SourceSight::kSilent:
      return kWait;  // it resumes by itself, and says so
  }
  return kWait;
}

Action SettleOpen(const Observation& seen) {
  // A source that died with its state complete has done its part: the target may take over.
  if (seen.source != SourceSight::kDead || !seen.state_saved) return kAbortOpen;
  if (!seen.target_dead && !seen.overdue) return kWait;
  if (CanGoOn(seen)) return kStranded;
  return seen.target_dead ? kAbortOpen : kWait;
}

// The target claimed and is dead. A living source takes the guest back by itself.
Action SettleDeadClaimant(const Observation& seen) {
  if (IsOut(seen)) return LastResort(seen);
  // "Moved", says the verdict, and the source's VM is alive: the target lied. The source does not
  // believe its own eyes there, and need not: its kernel has spoken, and the target is dead.
  const bool lied = seen.moves && seen.verdict == REHOME_VERDICT_COMMITTED;
  return lied && seen.source == SourceSight::kPaused ? kAbortCommitted : kWait;
}

// A target that hangs and cannot be condemned, because the source is, for it, or is stopped.
Action TakeFromTarget(const Observation& seen) {
  const bool proven = seen.fence == REHOME_FENCE_STATE_PROVEN;
  if (seen.policy == FencePolicy::kBeforeResume && !proven) return kFinishFence;
  if (IsOut(seen)) {
    // From CLAIMED it may still MOVE.
    const bool settled =
        seen.verdict == REHOME_VERDICT_COMMITTED || seen.source == SourceSight::kDead;
    return settled && CanGoOn(seen) ? kStranded : kWait;
  }
  const bool alive = seen.source == SourceSight::kPaused;
  return alive && seen.verdict == REHOME_VERDICT_COMMITTED ? kAbortCommitted : kWait;
}

// Whether killing the claimant leaves somebody who has the guest.
bool MayStopClaimant(const Observation& seen) {
  // Once it is dead, a word that is no proof lets nobody go on from CLAIMED (IsOut()).
  const bool unproven = seen.source == SourceSight::kVmDeadUnproven;
  if (unproven && seen.moves && seen.verdict == REHOME_VERDICT_CLAIMED) return false;
  if (CanGoOn(seen)) return true;
  if (seen.moves) {
    // It may have MOVEd: then it is the only place where the guest is, however slow.
    return seen.verdict == REHOME_VERDICT_CLAIMED && seen.source == SourceSight::kPaused;
  }
  return seen.source != SourceSight::kDead;
}

Action SettleClaimed(const Observation& seen) {
  if (seen.target_dead) return SettleDeadClaimant(seen);
  if (seen.source == SourceSight::kDead && seen.fence != REHOME_FENCE_STATE_PROVEN &&
      seen.fence != REHOME_FENCE_STATE_TARGET_CONDEMNED) {
    return kAnnounceProof;  // a target that waits for it goes on
  }
  if (!seen.overdue) return kWait;
  switch (static_cast<rehome_fence_state>(seen.fence)) {
    case REHOME_FENCE_STATE_OPEN:
    case REHOME_FENCE_STATE_TARGET_CONDEMNED:
      return MayStopClaimant(seen) ? kCondemnTarget : kWait;
    case REHOME_FENCE_STATE_PROVEN:
    case REHOME_FENCE_STATE_SOURCE_CONDEMNED:
      return TakeFromTarget(seen);
  }
  return kWait;  // somebody scribbled: nothing is permission
}

// The word holds no verdict. From there nobody can claim by compare-and-swap; the source's agent
// waits for the target's death.
Action SettleGarbage(const Observation& seen) {
  if (seen.source == SourceSight::kRunsGuest) return kResumed;
  if (!seen.target_dead) return kKillTarget;
  if (seen.source == SourceSight::kDead) return kLost;
  return seen.source == SourceSight::kVmDead ? kEndEmptySource : kWait;
}

}  // namespace

Action Settle(const Observation& seen) {
  switch (static_cast<rehome_verdict>(seen.verdict)) {
    case REHOME_VERDICT_RUNNING:
      return kRunning;
    case REHOME_VERDICT_ABORTED:
      return SettleAborted(seen);
    case REHOME_VERDICT_OPEN:
      return SettleOpen(seen);
    case REHOME_VERDICT_CLAIMED:
    case REHOME_VERDICT_COMMITTED:
      return SettleClaimed(seen);
  }
  return SettleGarbage(seen);
}

const char* ActionName(Action action) {
  switch (action) {
    case kRunning:
      return "RUNNING";
    case kResumed:
      return "RESUMED";
    case kLost:
      return "LOST";
    case kStranded:
      return "STRANDED";
    case kWait:
      return "WAIT";
    case kAbortOpen:
      return "ABORT_OPEN";
    case kAbortCommitted:
      return "ABORT_COMMITTED";
    case kKillTarget:
      return "KILL_TARGET";
    case kCondemnTarget:
      return "CONDEMN_TARGET";
    case kFinishFence:
      return "FINISH_FENCE";
    case kAnnounceProof:
      return "ANNOUNCE_PROOF";
    case kEndEmptySource:
      return "END_EMPTY_SOURCE";
  }
  return "?";
}

}  // namespace rehome
