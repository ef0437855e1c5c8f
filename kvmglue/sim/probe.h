// SPDX-License-Identifier: Apache-2.0
//
// What the simulated kernel says of itself.
#ifndef REHOME_KVMGLUE_SIM_PROBE_H_
#define REHOME_KVMGLUE_SIM_PROBE_H_

#include <optional>

#include "kvmglue/sim/options.h"
#include "kvmglue/sys_result.h"
#include "kvmglue/vm_type.h"

namespace rehome::sim {

// KVM_CHECK_EXTENSION, on /dev/kvm (no type) or on a VM of `type`. KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM
// is always 1, as on every x86 host (arch/x86/kvm/x86.c, kvm_vm_ioctl_check_extension()).
long CheckExtension(const SimulatedKernelOptions& options, std::optional<VmType> type,
                    unsigned long extension);

// KVM_GET_SUPPORTED_CPUID. E2BIG, with the number in `nent`, if the caller has no room.
SysResult GetSupportedCpuid(void* argument);

// KVM_GET_MSR_INDEX_LIST. E2BIG likewise.
SysResult GetMsrIndexList(void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_PROBE_H_
