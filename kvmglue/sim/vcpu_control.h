// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_VCPU_CONTROL_H_
#define REHOME_KVMGLUE_SIM_VCPU_CONTROL_H_

#include <optional>

#include "kvmglue/sim/vcpu_object.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// State that KVM keeps beside the registers, also for protected vCPUs; nothing for another request:
//   KVM_GET_/SET_MSRS       the number of entries up to the first unknown one; E2BIG above 256
//   KVM_GET_/SET_LAPIC      EINVAL without the kernel's irqchip
//   KVM_GET_/SET_MP_STATE   EINVAL unknown, or not RUNNABLE without the kernel's irqchip
//   KVM_GET_/SET_VCPU_EVENTS, KVM_GET_/SET_TSC_KHZ
//   KVM_SET_CPUID2          E2BIG above 256 entries; EINVAL another CPUID once the vCPU has run
//   KVM_GET_CPUID2          E2BIG if the caller has no room
//   KVM_HAS_/GET_/SET_DEVICE_ATTR  group KVM_VCPU_TSC_CTRL, attribute KVM_VCPU_TSC_OFFSET; else
//   ENXIO KVM_KVMCLOCK_CTRL       EINVAL if the guest has no kvmclock
// REQUIRES: the vCPU's mutex is held.
std::optional<SysResult> VcpuControlIoctl(VcpuObject& vcpu, bool irqchip, unsigned long request,
                                          void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VCPU_CONTROL_H_
