// SPDX-License-Identifier: Apache-2.0
//
// The effects of a rescue (docs/recovery.md): the source is out, its target did not run the guest,
// and the escrow has it all: memory, context, and the saved state in the handover block. The daemon
// plays the source's part towards a new target.
#ifndef REHOME_DAEMON_RESCUE_EFFECTS_H_
#define REHOME_DAEMON_RESCUE_EFFECTS_H_

#include "daemon/effect_context.h"

namespace rehome {

// Takes the verdict from the latest target, proves its death, and then has a new one built; one
// that fails is ended and replaced as long as the record has attempts left, and once in any case.
// kTargetPrepared: the new target is the record's and the escrow's, and kept with the service
// manager. kVerdictRunning: the latest target ran the guest after all. kSourceLost: there is no
// saved state. kUnreachable: it does not die, or no target could be built; the escrow stays.
// No interrupt ends it: there is nobody to give the guest back to.
Outcome BuildRescueEffect(EffectContext& context, Migration record);

// Arms the new target, gives it the state, and watches. kVerdictRunning; kStuck: it did not run the
// guest and is proven dead; kUnreachable: it does not die.
Outcome HandOverToRescueEffect(EffectContext& context, Migration record);

}  // namespace rehome

#endif  // REHOME_DAEMON_RESCUE_EFFECTS_H_
