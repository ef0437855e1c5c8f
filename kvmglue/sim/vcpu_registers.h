// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_VCPU_REGISTERS_H_
#define REHOME_KVMGLUE_SIM_VCPU_REGISTERS_H_

#include <optional>

#include "kvmglue/sim/vcpu_object.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// An x86 vCPU after reset, as KVM_CREATE_VCPU makes it; all but the mutex.
void ResetVcpu(VcpuObject& vcpu, uint32_t id, bool irqchip);

// KVM_GET_/SET_ of REGS, SREGS, SREGS2, XSAVE, XSAVE2, XCRS, DEBUGREGS; nothing for another
// request. EINVAL for a vCPU whose state is protected, EFAULT without an argument, EINVAL for
// values that KVM refuses (flags; x87 off in XCR0; upper halves of DR6 and DR7). KVM_SET_REGS drops
// pending port I/O. REQUIRES: the vCPU's mutex is held.
std::optional<SysResult> VcpuRegistersIoctl(VcpuObject& vcpu, unsigned long request,
                                            void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VCPU_REGISTERS_H_
