// SPDX-License-Identifier: Apache-2.0
//
// The built-in guest for the simulated kernel: the same steps over the same memory as the payload
// (guest/payload.c), the same mailboxes, heartbeat and echo, with all state of a vCPU in its registers.
// What the simulated kernel lacks is left out: XMM7, kvmclock, the LAPIC timer.
#ifndef REHOME_VMM_REFERENCE_SIM_CPU_H_
#define REHOME_VMM_REFERENCE_SIM_CPU_H_

#include <cstdint>

#include "kvmglue/sim/simulated_cpu.h"
#include "vmm/reference/guest/guest_abi.h"

namespace rehome {

// Registers with which vCPU `vcpu` starts. They carry the boot information, because memory of
// protected VM types cannot be written from outside; vCPU 0 writes it to its page if it is not there.
void SetSimBootRegisters(const rehome_guest_boot_info& boot, uint32_t vcpu, kvm_regs& regs);

class SimGuestCpu : public SimulatedCpu {
 public:
  SimExit Step(SimVcpuContext& vcpu) override;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SIM_CPU_H_
