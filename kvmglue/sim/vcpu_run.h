// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_VCPU_RUN_H_
#define REHOME_KVMGLUE_SIM_VCPU_RUN_H_

#include <cstdint>

#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/simulated_cpu.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// KVM_RUN: completes pending port I/O, then steps until one of these:
//   EINTR   kvm_run->immediate_exit is set; exit_reason KVM_EXIT_INTR
//   EIO     the VM is dead
//   EFAULT  exit_reason KVM_EXIT_MEMORY_FAULT
//   EINVAL  SEV: no context yet, or no VMSA
//   0       KVM_EXIT_IO, _HLT, _SHUTDOWN; KVM_EXIT_INTERNAL_ERROR where KVM would have to emulate
//   (an
//           access without a slot, a write to a read-only one)
// A vCPU that is not runnable waits inside, if the irqchip is the kernel's, until immediate_exit is
// set or its mp_state was changed before the call. A signal without immediate_exit does not end
// KVM_RUN: a library cannot see that one is pending.
//
// REQUIRES: the vCPU's mutex is held.
SysResult RunVcpu(LocalVm& vm, uint32_t index, SimulatedCpu& cpu);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VCPU_RUN_H_
