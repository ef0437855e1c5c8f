// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_VM_DEVICES_H_
#define REHOME_KVMGLUE_SIM_VM_DEVICES_H_

#include <optional>

#include "kvmglue/sim/vm_object.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// Devices and clock of a VM, as state that can be read and written; they deliver nothing. Nothing
// for another request:
//   KVM_SET_TSS_ADDR           EINVAL above 4 GiB - 12 KiB
//   KVM_SET_IDENTITY_MAP_ADDR  EINVAL once there are vCPUs
//   KVM_CREATE_IRQCHIP         EEXIST twice; EINVAL once there are vCPUs
//   KVM_CREATE_PIT2            EEXIST twice; ENOENT without irqchip
//   KVM_GET_/SET_IRQCHIP       ENXIO without irqchip; EINVAL no such chip
//   KVM_GET_/SET_PIT2          ENXIO without PIT
//   KVM_GET_CLOCK              with REALTIME, HOST_TSC and TSC_STABLE
//   KVM_SET_CLOCK              with or without REALTIME; EINVAL other flags
//   KVM_GET_TSC_KHZ
std::optional<SysResult> VmDevicesIoctl(VmObject& vm, unsigned long request, void* argument);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VM_DEVICES_H_
