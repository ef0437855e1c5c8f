// SPDX-License-Identifier: Apache-2.0
//
// The effects around the blackout. The daemon is not on its path: it sends START and watches the
// verdict, except where the policy wants the source proven stopped before the target may run.
#ifndef REHOME_DAEMON_HANDOVER_EFFECTS_H_
#define REHOME_DAEMON_HANDOVER_EFFECTS_H_

#include "daemon/effect_context.h"

namespace rehome {

// START, then the verdict: kVerdictRunning, kVerdictAborted (also after a cancel that came in
// time), kSourceLost (died while the verdict was still open, which is then closed), or kStuck after
// both deadlines.
Outcome HandOverEffect(EffectContext& context, Migration record);

}  // namespace rehome

#endif  // REHOME_DAEMON_HANDOVER_EFFECTS_H_
