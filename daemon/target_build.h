// SPDX-License-Identifier: Apache-2.0
//
// A target VMM, started and made to build the guest's VM: the same for the first target of a
// migration and for one that a rescue puts into the place of a dead one.
#ifndef REHOME_DAEMON_TARGET_BUILD_H_
#define REHOME_DAEMON_TARGET_BUILD_H_

#include <memory>

#include "absl/status/statusor.h"
#include "daemon/effect_context.h"

namespace rehome {

// Starts the profile's VMM, waits for its HELLO, checks state format and features. escrow.source
// has the format of the state in state_format then, and no other. From the moment that it runs it
// is the escrow's and the record's target, also if an error comes back. `interrupt` may be null.
// REQUIRES: escrow.source.
absl::Status StartTarget(EffectContext& context, Migration& record, Interrupt* interrupt);

struct BuiltTarget {
  std::unique_ptr<HandoverBlock> block;
  VmDescription vm;
};
// Makes a new handover block and sends PREPARE with escrow.source; then compares what the target
// built with it: type, vCPU count, every slot (inode by fstat of the fds received, not by claim),
// and for mapped memory the target's /proc/PID/maps. Leaves the escrow as it is. REQUIRES:
// StartTarget() was OK.
absl::StatusOr<BuiltTarget> BuildInTarget(EffectContext& context, const Migration& record,
                                          Interrupt* interrupt);

}  // namespace rehome

#endif  // REHOME_DAEMON_TARGET_BUILD_H_
