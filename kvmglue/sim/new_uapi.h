// SPDX-License-Identifier: Apache-2.0
//
// include/uapi/linux/kvm.h beyond the headers of Linux 6.1, as far as the simulated kernel needs
// it.
#ifndef REHOME_KVMGLUE_SIM_NEW_UAPI_H_
#define REHOME_KVMGLUE_SIM_NEW_UAPI_H_

// The C form of this macro has an empty struct, which has one byte in C++ and would move the
// arrays.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

#ifndef KVM_CREATE_GUEST_MEMFD
#define KVM_CAP_USER_MEMORY2 231
#define KVM_CAP_MEMORY_FAULT_INFO 232
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#define KVM_CAP_GUEST_MEMFD 234
#define KVM_CAP_VM_TYPES 235
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3)
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#define KVM_SEV_INIT2 22

struct kvm_userspace_memory_region2 {
  __u32 slot;
  __u32 flags;
  __u64 guest_phys_addr;
  __u64 memory_size;
  __u64 userspace_addr;
  __u64 guest_memfd_offset;
  __u32 guest_memfd;
  __u32 pad1;
  __u64 pad2[14];
};

struct kvm_create_guest_memfd {
  __u64 size;
  __u64 flags;
  __u64 reserved[6];
};

struct kvm_memory_attributes {
  __u64 address;
  __u64 size;
  __u64 attributes;
  __u64 flags;
};

struct kvm_sev_init {
  __u64 vmsa_features;
  __u32 flags;
  __u16 ghcb_version;
  __u16 pad1;
  __u32 pad2[8];
};

#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif

namespace rehome {

struct LinkGuestMemfd {
  uint64_t fd;
  uint64_t flags;
  uint64_t reserved[6];
};
inline constexpr unsigned long LinkGuestMemfdRequest(uint32_t number) {
  return _IOC(_IOC_READ | _IOC_WRITE, KVMIO, number, sizeof(LinkGuestMemfd));
}

struct MemoryFaultExit {
  uint64_t flags;
  uint64_t gpa;
  uint64_t size;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_NEW_UAPI_H_
