// SPDX-License-Identifier: Apache-2.0
//
// The migration state machine: one pure, total function. No clock, no fd, no lock, no I/O. The
// driver journals the record this returns *before* it performs the effect.
//
// Each effect answers with exactly one event. A stop (cancel, deadline, shutdown) is not an event
// of its own: the driver asks effects to stop, which then answer kInterrupted (or with what
// happened meanwhile, which wins), and before the blackout the machine itself turns an event that
// would lead on into kInterrupted. docs/state-machine.md has the table and the reasons for each
// edge.
#ifndef REHOME_DAEMON_MACHINE_H_
#define REHOME_DAEMON_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/migration.h"

namespace rehome {

enum class Effect : uint8_t {
  kNone = 1,  // terminal: nothing to do
  // Before the blackout each may also answer kRefused, kInterrupted or kSourceLost.
  kRunPreflight = 2,    // DESCRIBE the source, all checks -> kPreflightPassed
  kLaunchTarget = 3,    // start the profile, HELLO -> kTargetConnected
  kPrepareTarget = 4,   // PREPARE, compare layouts -> kTargetPrepared
  kArm = 5,             // ARM_TARGET, ARM_SOURCE -> kArmed
  kHandOver = 6,        // START; watch the verdict -> kVerdictRunning | kVerdictAborted | kStuck |
                        // kSourceLost; kRefused, kInterrupted if START was not sent
  kAwaitFirstRun = 7,   // with MOVE ask the kernel -> kFirstRunSeen | kTargetLost | kUnreachable |
                        // kFenceIncomplete
  kFenceSource = 8,     // RELEASE, SIGKILL, proof, holders -> kFenceProven | kFenceIncomplete |
                        // kTargetLost
  kAbort = 9,           // verdict to ABORTED, await RESUMED -> kSourceResumed | kVerdictRunning |
                        // kSourceLost | kStranded | kUnreachable. A source that never paused has
                        // "resumed".
  kDiscardTarget = 10,  // end the source's hold, or the source if it is on record as empty; kill,
                        // reap, drop escrow, if there is any of them -> kTargetDiscarded |
                        // kFenceIncomplete
  kRecover = 11,        // collect escrow, processes, agents, verdict; start nothing ->
                        // kSourceResumed | kSourceLost | kVerdictRunning | kStuck (for kAbort to
                        // settle) | kUnreachable
  kBuildRescue = 12,    // take the verdict from a hanging target, prove its death; start a new
                        // target, PREPARE -> kTargetPrepared | kVerdictRunning (the old one ran
                        // after all) | kSourceLost (nothing to go on from) | kUnreachable
  kHandOverToRescue = 13,  // arm it, give it the state, watch -> kVerdictRunning | kStuck |
                           // kSourceLost
};

enum class Event : uint8_t {
  kAdmitted = 1,
  kPreflightPassed = 2,
  kRefused = 3,      // an effect before the blackout failed; the guest never paused
  kInterrupted = 4,  // cancel or overall deadline before the blackout
  kTargetConnected = 5,
  kTargetPrepared = 6,
  kArmed = 7,
  kVerdictRunning = 8,  // the target owns the guest
  kVerdictAborted = 9,  // the source keeps it
  kStuck = 10,          // the verdict did not settle within both deadlines
  kFirstRunSeen = 11,
  kTargetLost = 12,  // proven dead, or its first KVM_RUN failed, after RUNNING
  kFenceProven = 13,
  kFenceIncomplete = 14,  // somebody still holds the inode, the process would not die, or its VM
                          // was never moved
  kSourceResumed = 15,
  kSourceLost = 16,  // the source process is gone before the guest was handed over
  kTargetDiscarded = 17,
  kUnreachable = 18,  // no answer from those who know, and they are not proven dead
  // Not answers of effects: the registry's.
  kDaemonRestarted = 19,   // another daemon drove this until it ended
  kResolveRequested = 20,  // somebody asks about an INDETERMINATE one again
  // Again an answer.
  kStranded = 21,  // the source is out, the target did not run the guest, and the escrow has it all
};
inline constexpr size_t kEventCount = 21;
inline constexpr size_t kEffectCount = 13;
const char* EventName(Event event);
const char* EffectName(Effect effect);

// The longest way of one drive: no step comes twice but the two of a rescue, once per attempt,
// which Advance() counts. A restart or a resolve begins a new drive.
inline constexpr size_t kMaxTransitions = kStepCount + 2 * kMaxRescueAttempts;

struct Transition {
  Step next_step;
  // Of a terminal step: what the table says, which Advance() refines by what the record says.
  MigrationState next_state;
  std::optional<GuestOwner> next_owner;  // empty: stays as it is
  Effect effect;
};

// What happens in `step` on `event`; FAILED_PRECONDITION / ILLEGAL_TRANSITION naming both if the
// table has no such edge, which is a bug in an effect, never a client's fault. With
// `stop_requested`, an event that would lead on before the blackout counts as kInterrupted.
absl::StatusOr<Transition> Next(Step step, Event event, bool stop_requested);

struct Advanced {
  Migration record;
  Effect effect = Effect::kNone;
};

// Applies Next() to `record`: revision, state, step, owner, and the failure (`cause`, kept only if
// the record has none yet or only a cancel: the first cause wins). `stop` says why the migration
// should not go on (CANCELLED, DEADLINE_EXCEEDED, SHUTTING_DOWN; reason "" = go on) and is the
// cause of what was interrupted. The terminal state is
//   SUCCEEDED      if no failure is on record, the owner is the target, and the fence proof in the
//                  record is complete; without proof: INTERNAL / SUCCESS_WITHOUT_PROOF;
//   CANCELLED      if the guest is on the source because of a cancel and nothing else;
//   INDETERMINATE  if nobody could tell (step kUnresolved: the one terminal state that can be
//   left); FAILED         else; `owner` says where the guest is.
// A transition into kRescuing notes in `rescue` whom it replaces and why, and counts the attempt; a
// rescue that fails after kMaxRescueAttempts counts as kUnreachable. kDaemonRestarted notes where.
absl::StatusOr<Advanced> Advance(const Migration& record, Event event, const Failure& cause,
                                 const Failure& stop);

// The event that stands for "this effect broke its contract"; legal in `step`, and never claims
// more than is known. REQUIRES: step is neither kDone nor kUnresolved.
Event FailureEvent(Step step);

// Ends a migration that nobody drives any more. FAILED, with the first cause, if the record proves
// that the guest was not handed over (owner source) or was lost before it was (owner nobody while
// rolling back). Otherwise INDETERMINATE because of `cause`. The owner stays what the record says.
// REQUIRES: not terminal.
Migration Abandon(const Migration& record, const Failure& cause);

// What becomes of a record that was not finished when its host went down: FAILED / HOST_REBOOTED,
// owner nobody, because no guest survives its host. REQUIRES: not kDone.
Migration CloseAfterReboot(const Migration& record);

}  // namespace rehome

#endif  // REHOME_DAEMON_MACHINE_H_
