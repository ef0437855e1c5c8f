// SPDX-License-Identifier: Apache-2.0
//
// What it means for a step that its effect broke its contract.
#include "daemon/machine.h"

namespace rehome {

using enum Step;
using enum Event;

Event FailureEvent(Step step) {
  switch (step) {
    case kQueued:
    case kPreflight:
    case kLaunching:
    case kPreparingTarget:
    case kArming:
      return kRefused;
    case kHandingOver:
      return kStuck;
    case kAborting:
    case kFirstRun:
    case kRecovering:
    case kRescuing:
    case kRescueHandingOver:
    case kUnresolved:
    case kDone:
      return kUnreachable;
    case kFencing:
    case kDiscardingTarget:
      return kFenceIncomplete;
  }
  return kUnreachable;
}

}  // namespace rehome
