// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_LINK_ABI_H_
#define REHOME_KVMGLUE_LINK_ABI_H_

#include <cstdint>

namespace rehome {

// KVM_LINK_GUEST_MEMFD is upstream nowhere; RFC v1 used 0xd5 (now KVM_PRE_FAULT_MEMORY), v2 0xd6.
// The number is configuration, never a constant of the code.
struct LinkAbi {
  uint32_t ioctl_number = 0xd6;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_LINK_ABI_H_
