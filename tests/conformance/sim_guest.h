// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_TESTS_CONFORMANCE_SIM_GUEST_H_
#define REHOME_TESTS_CONFORMANCE_SIM_GUEST_H_

#include "kvmglue/sim/simulated_cpu.h"

namespace rehome::conformance {

// What the programs of bench.h do, for a kernel that cannot run code: told apart by RIP.
class SimGuest final : public SimulatedCpu {
 public:
  SimExit Step(SimVcpuContext& vcpu) override;
};

}  // namespace rehome::conformance

#endif  // REHOME_TESTS_CONFORMANCE_SIM_GUEST_H_
