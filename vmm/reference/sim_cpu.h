// SPDX-License-Identifier: Apache-2.0
//
// The built-in guest for the simulated kernel: the same steps over the same memory as the payload
// (guest/payload.c), the same mailboxes, heartbeat and echo, with all state of a vCPU in its
// registers. What the simulated kernel lacks is left out: XMM7, kvmclock, the LAPIC timer.
#ifndef REHOME_VMM_REFERENCE_SIM_CPU_H_
#define REHOME_VMM_REFERENCE_SIM_CPU_H_

#include "kvmglue/sim/simulated_cpu.h"

namespace rehome {

// Boot information must be in its page; the registers that a vCPU starts with do not matter.
class SimGuestCpu : public SimulatedCpu {
 public:
  SimExit Step(SimVcpuContext& vcpu) override;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SIM_CPU_H_
