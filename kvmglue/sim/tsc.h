// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_TSC_H_
#define REHOME_KVMGLUE_SIM_TSC_H_

#include <cstdint>

namespace rehome::sim {

// The host's TSC frequency, measured against CLOCK_MONOTONIC at the first call (2 ms), good to
// about 1 in 10,000.
uint32_t HostTscKhz();

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_TSC_H_
