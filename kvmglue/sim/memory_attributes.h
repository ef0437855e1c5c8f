// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_MEMORY_ATTRIBUTES_H_
#define REHOME_KVMGLUE_SIM_MEMORY_ATTRIBUTES_H_

#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// What KVM_CAP_MEMORY_ATTRIBUTES says: PRIVATE where memory is split, else nothing.
uint64_t SupportedAttributes(VmType type);

// KVM_SET_MEMORY_ATTRIBUTES. ENOTTY if no VM type of this kernel has private memory (the ioctl is
// then not compiled in); EFAULT; EINVAL flags, an attribute that the VM does not support, empty,
// not page-aligned or overflowing range; ENOMEM too many ranges.
SysResult SetMemoryAttributes(const SimulatedKernelOptions& options, LocalVm& vm, void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_MEMORY_ATTRIBUTES_H_
