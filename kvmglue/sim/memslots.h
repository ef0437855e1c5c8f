// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_MEMSLOTS_H_
#define REHOME_KVMGLUE_SIM_MEMSLOTS_H_

#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// Address spaces of a VM: no SMM beside private memory (kvm_arch_nr_memslot_as_ids()).
uint32_t AddressSpaceCount(const SimulatedKernelOptions& options, VmType type);

// KVM_SET_USER_MEMORY_REGION2. Checks in the order of virt/kvm/kvm_main.c, kvm_set_memory_region()
// and virt/kvm/guest_memfd.c, kvm_gmem_bind():
//   EINVAL  unknown flag; LOG_DIRTY or READONLY together with GUEST_MEMFD; size, gpa,
//   userspace_addr
//           or offset not page-aligned; offset, gpa overflow; no such address space or slot number
//   EINVAL  deleting (size 0) a slot that is not there
//   EINVAL  an existing slot: anything of one with guest_memfd, size, userspace_addr or the
//   READONLY
//           and GUEST_MEMFD flags of another
//   EEXIST  gpa overlap with another slot of the address space
//   EBADF   guest_memfd is not open; EINVAL it is not one, belongs to another VM, the range reaches
//           beyond its end or overlaps another slot of the same file
//   EFAULT  no argument
SysResult SetUserMemoryRegion2(const SimulatedKernelOptions& options, LocalVm& vm, void* argument);

// KVM_SET_USER_MEMORY_REGION: the same without guest_memfd (EINVAL with the flag).
SysResult SetUserMemoryRegion(const SimulatedKernelOptions& options, LocalVm& vm, void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_MEMSLOTS_H_
