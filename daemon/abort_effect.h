// SPDX-License-Identifier: Apache-2.0
//
// Settles a handover that did not end with RUNNING: looks at block, processes and agents, asks
// Settle() (settlement.h), does what it says, and looks again.
#ifndef REHOME_DAEMON_ABORT_EFFECT_H_
#define REHOME_DAEMON_ABORT_EFFECT_H_

#include "daemon/effect_context.h"
#include "daemon/settlement.h"

namespace rehome {

// kSourceResumed, kVerdictRunning (the target was faster), kSourceLost (proven dead, nobody runs
// the guest, and there is nothing to go on from), kStranded (only a rescue can), or kUnreachable
// (the deadlines have long passed, and those who know neither answer nor die).
Outcome AbortEffect(EffectContext& context, Migration record);

// What can be seen of the source now; asks it, which may take up to `wait`. A source that lost its
// connection is looked for.
SourceSight LookAtSource(EffectContext& context, const Migration& record,
                         std::chrono::milliseconds wait);

}  // namespace rehome

#endif  // REHOME_DAEMON_ABORT_EFFECT_H_
