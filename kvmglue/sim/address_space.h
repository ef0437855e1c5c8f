// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_ADDRESS_SPACE_H_
#define REHOME_KVMGLUE_SIM_ADDRESS_SPACE_H_

#include <cstdint>

namespace rehome::sim {

// Stands for a process's mm_struct: KVM compares kvm->mm with current->mm (virt/kvm/kvm_main.c,
// kvm_vm_ioctl()). The same for all threads of a process, another one in a forked child, and gone
// after execve(2).
struct AddressSpaceId {
  uint64_t high;
  uint64_t low;
  friend bool operator==(const AddressSpaceId&, const AddressSpaceId&) = default;
};

// Derived, not stored: 16 random bytes that the kernel gives each program image (AT_RANDOM) and the
// pid, which tells a forked child from its parent. Two processes of one image could be confused
// only if the pid of a dead one were given to the other.
AddressSpaceId CurrentAddressSpace();

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_ADDRESS_SPACE_H_
