// SPDX-License-Identifier: Apache-2.0
//
// The effects after the verdict: the target's first run, the proof that the source is gone, and the
// disposal of a target that was not needed.
#ifndef REHOME_DAEMON_COMPLETION_EFFECTS_H_
#define REHOME_DAEMON_COMPLETION_EFFECTS_H_

#include "daemon/effect_context.h"

namespace rehome {

// Waits for the target's word that a KVM_RUN came back sane: kFirstRunSeen; kTargetLost if it died
// or said that the run failed; kUnreachable if it says nothing (it may well be running the guest,
// so nobody touches it).
Outcome AwaitFirstRunEffect(EffectContext& context, Migration record);

// RELEASE, SIGKILL, proof of exit; then every process of the host is searched for the memory's
// inodes. kTargetLost if the target has died meanwhile. kFenceProven only if nobody but the target
// (and we, who close last) holds them. Closes the escrowed memory fds in either case.
Outcome FenceSourceEffect(EffectContext& context, Migration record);

// Tells the source to drop its hold, kills and reaps the target if there is one, closes the escrow.
// A source that is on record as one that nobody can run the guest in any more (RecoverEffect) is
// ended, as after a success. kTargetDiscarded; kFenceIncomplete if one of them would not die.
Outcome DiscardTargetEffect(EffectContext& context, Migration record);

}  // namespace rehome

#endif  // REHOME_DAEMON_COMPLETION_EFFECTS_H_
