// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_MISBEHAVIOUR_H_
#define REHOME_VMM_REFERENCE_MISBEHAVIOUR_H_

#include <vector>

#include "kvmglue/fd.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/reference/guest_ram.h"
#include "vmm/reference/test_hooks.h"

namespace rehome {

// Changes what a target is about to bind, so that the kernel finds another layout than the answer
// tells; only kBinding does.
void Misbind(Misbehaviour kind, std::vector<RamSlot>& slots);

// Falsifies a target's answer to PREPARE; kNone leaves it alone. A lie that needs a descriptor puts
// it into `prop`, which must stay open while the answer is sent.
void Misbehave(Misbehaviour kind, rehome_vm& target, UniqueFd& prop);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_MISBEHAVIOUR_H_
