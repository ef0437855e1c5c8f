// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_VCPU_KNOWN_H_
#define REHOME_KVMGLUE_VCPU_KNOWN_H_

#include <cstdint>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/vcpu.h"

namespace rehome {

// Private to Vcpu.
struct Vcpu::Known {
  kvm_mp_state mp_state;
  kvm_xcrs xcrs;
  kvm_debugregs debugregs;
  uint64_t tsc_offset;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VCPU_KNOWN_H_
