// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_BINDING_MATCH_H_
#define REHOME_KVMGLUE_SIM_BINDING_MATCH_H_

#include <cstdint>

#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/vm_object.h"

namespace rehome::sim {

// Whether both VMs have the same memory at the same place, so that MOVE may hand it over: equal
// slots in the order of their gpa (gpa, size, flags; with guest_memfd also inode and offset, both
// files open, the source's awake) and equal TSS and identity map addresses, which are slots of
// KVM's own. Not compared, as in RFC v2: slot numbers and userspace_addr. Looks at address spaces
// [0, address_spaces): RFC v2 leaves out the second. REQUIRES: memory_lock of both VMs is held.
bool BindingsMatch(const LocalVm& destination, const VmObject& source, uint32_t address_spaces);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_BINDING_MATCH_H_
