// SPDX-License-Identifier: Apache-2.0
//
// Names of events and effects, apart from the decisions: they are long and say nothing new.
#include "daemon/machine.h"

namespace rehome {

using enum Event;

const char* EventName(Event event) {
  switch (event) {
    case kAdmitted:
      return "ADMITTED";
    case kPreflightPassed:
      return "PREFLIGHT_PASSED";
    case kRefused:
      return "REFUSED";
    case kInterrupted:
      return "INTERRUPTED";
    case kTargetConnected:
      return "TARGET_CONNECTED";
    case kTargetPrepared:
      return "TARGET_PREPARED";
    case kArmed:
      return "ARMED";
    case kVerdictRunning:
      return "VERDICT_RUNNING";
    case kVerdictAborted:
      return "VERDICT_ABORTED";
    case kStuck:
      return "STUCK";
    case kFirstRunSeen:
      return "FIRST_RUN_SEEN";
    case kTargetLost:
      return "TARGET_LOST";
    case kFenceProven:
      return "FENCE_PROVEN";
    case kFenceIncomplete:
      return "FENCE_INCOMPLETE";
    case kSourceResumed:
      return "SOURCE_RESUMED";
    case kSourceLost:
      return "SOURCE_LOST";
    case kTargetDiscarded:
      return "TARGET_DISCARDED";
    case kUnreachable:
      return "UNREACHABLE";
    case kDaemonRestarted:
      return "DAEMON_RESTARTED";
    case kResolveRequested:
      return "RESOLVE_REQUESTED";
    case kStranded:
      return "STRANDED";
  }
  return "?";
}

const char* EffectName(Effect effect) {
  switch (effect) {
    case Effect::kNone:
      return "NONE";
    case Effect::kRunPreflight:
      return "RUN_PREFLIGHT";
    case Effect::kLaunchTarget:
      return "LAUNCH_TARGET";
    case Effect::kPrepareTarget:
      return "PREPARE_TARGET";
    case Effect::kArm:
      return "ARM";
    case Effect::kHandOver:
      return "HAND_OVER";
    case Effect::kAwaitFirstRun:
      return "AWAIT_FIRST_RUN";
    case Effect::kFenceSource:
      return "FENCE_SOURCE";
    case Effect::kAbort:
      return "ABORT";
    case Effect::kDiscardTarget:
      return "DISCARD_TARGET";
    case Effect::kRecover:
      return "RECOVER";
    case Effect::kBuildRescue:
      return "BUILD_RESCUE";
    case Effect::kHandOverToRescue:
      return "HAND_OVER_TO_RESCUE";
  }
  return "?";
}

}  // namespace rehome
