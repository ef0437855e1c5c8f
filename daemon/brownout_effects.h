// SPDX-License-Identifier: Apache-2.0
//
// The effects while the guest runs on undisturbed: preflight, launch, prepare, arm. Any failure
// here is kRefused (or kInterrupted) and costs the guest nothing; or the source died by itself.
#ifndef REHOME_DAEMON_BROWNOUT_EFFECTS_H_
#define REHOME_DAEMON_BROWNOUT_EFFECTS_H_

#include "daemon/effect_context.h"

namespace rehome {

Outcome PreflightEffect(EffectContext& context, Migration record);

// Starts the profile's VMM, waits for its HELLO, checks state format and features.
Outcome LaunchTargetEffect(EffectContext& context, Migration record);

// PREPARE; then the daemon itself compares what the target built with what the source described:
// type, vCPU count, every slot (inode by fstat of the fds received, not by claim), and for mapped
// memory the target's /proc/PID/maps.
Outcome PrepareTargetEffect(EffectContext& context, Migration record);

// ARM_TARGET and ARM_SOURCE: both hold the block and the other's pidfd; nobody has paused.
Outcome ArmEffect(EffectContext& context, Migration record);

// `outcome` of one of the above; kSourceLost if it failed and the source has exited: there is no
// guest any more, whatever the failure looked like.
Outcome LossIfSourceDied(EffectContext& context, Outcome outcome);

}  // namespace rehome

#endif  // REHOME_DAEMON_BROWNOUT_EFFECTS_H_
