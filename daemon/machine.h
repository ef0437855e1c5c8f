// SPDX-License-Identifier: Apache-2.0
//
// The migration state machine: one pure, total function. No clock, no fd, no lock, no I/O. The
// driver journals the record this returns *before* it performs the effect.
//
// Each effect answers with exactly one event. A cancel is not an event of its own: the driver asks
// effects to stop, which then answer kInterrupted (or with what happened meanwhile, which wins).
#ifndef REHOME_DAEMON_MACHINE_H_
#define REHOME_DAEMON_MACHINE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/migration.h"

namespace rehome {

enum class Effect : uint8_t {
  kNone = 1,          // terminal: nothing to do
  kRunPreflight = 2,  // DESCRIBE the source, all checks -> kPreflightPassed | kRefused
  kLaunchTarget = 3,  // start the profile, HELLO -> kTargetConnected
  kPrepareTarget = 4, // PREPARE, compare layouts -> kTargetPrepared
  kArm = 5,           // ARM_TARGET, ARM_SOURCE -> kArmed
  kHandOver = 6,      // START; watch the verdict -> kVerdictRunning | kVerdictAborted | kStuck
  kAwaitFirstRun = 7, // -> kFirstRunSeen | kTargetLost
  kFenceSource = 8,   // RELEASE, SIGKILL, proof, holders -> kFenceProven | kFenceIncomplete
  kAbort = 9,         // verdict to ABORTED, await RESUMED -> kSourceResumed | kVerdictRunning |
                      // kSourceLost
  kDiscardTarget = 10,// kill, reap, drop escrow -> kTargetDiscarded
};

enum class Event : uint8_t {
  kAdmitted = 1,
  kPreflightPassed = 2,
  kRefused = 3,          // an effect before the blackout failed; the guest never paused
  kInterrupted = 4,      // cancel or overall deadline before the blackout
  kTargetConnected = 5,
  kTargetPrepared = 6,
  kArmed = 7,
  kVerdictRunning = 8,   // the target owns the guest
  kVerdictAborted = 9,   // the source keeps it
  kStuck = 10,           // the verdict did not settle within both deadlines
  kFirstRunSeen = 11,
  kTargetLost = 12,      // died or failed after RUNNING
  kFenceProven = 13,
  kFenceIncomplete = 14, // somebody still holds the inode, or the process would not die
  kSourceResumed = 15,
  kSourceLost = 16,      // the source process is gone before the guest was handed over
  kTargetDiscarded = 17,
  kUnreachable = 18,     // neither side answers and neither is proven dead
};
inline constexpr size_t kEventCount = 18;
inline constexpr size_t kEffectCount = 10;
const char* EventName(Event event);
const char* EffectName(Effect effect);

struct Transition {
  Step next_step;
  MigrationState next_state;
  GuestOwner next_owner;
  Effect effect;
};

// What happens in `step` on `event`; FAILED_PRECONDITION / ILLEGAL_TRANSITION naming both if the
// table has no such edge, which is a bug in an effect, never a client's fault.
absl::StatusOr<Transition> Next(Step step, Event event, bool cancel_requested);

struct Advanced {
  Migration record;
  Effect effect = Effect::kNone;
};

// Applies Next() to `record`: revision, state, step, owner, and the failure (`cause`, kept only if
// the record has none yet: the first cause wins). SUCCEEDED is entered only with a complete fence
// proof in the record; without one the call fails with INTERNAL / SUCCESS_WITHOUT_PROOF.
absl::StatusOr<Advanced> Advance(const Migration& record, Event event, const Failure& cause);

}  // namespace rehome

#endif  // REHOME_DAEMON_MACHINE_H_
