// SPDX-License-Identifier: Apache-2.0
//
// <linux/kvm.h> plus what Debian 12's copy of it (6.1) lacks; everything is the kernel's own name
// and number (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h, 6.18) and disappears as
// soon as the header has it. Only kvmglue includes this.
#ifndef REHOME_KVMGLUE_KVM_ABI_H_
#define REHOME_KVMGLUE_KVM_ABI_H_

// An empty struct has one byte in C++, so the C form of this macro moves the arrays that it
// declares and, with the sizes, changes ioctl numbers: KVM_GET_MSRS of a C++ program would be
// ENOTTY. Later headers have this form for C++. Hence: never <linux/kvm.h> without this header
// before it.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

// ---- memory

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2
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
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes {
  __u64 address;
  __u64 size;
  __u64 attributes;
  __u64 flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
  __u64 size;
  __u64 flags;
  __u64 reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif

#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif

#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
  __u64 gpa;
  __u64 size;
  __u64 flags;
  __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

// ---- VM types

#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_DEFAULT_VM 0
#define KVM_X86_SW_PROTECTED_VM 1
#endif
#ifndef KVM_X86_SEV_VM
#define KVM_X86_SEV_VM 2
#define KVM_X86_SEV_ES_VM 3
#endif
#ifndef KVM_X86_SNP_VM
#define KVM_X86_SNP_VM 4
#endif
#ifndef KVM_X86_TDX_VM
#define KVM_X86_TDX_VM 5
#endif

// ---- exits

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3)
#endif

// ---- capabilities

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#define KVM_CAP_MEMORY_FAULT_INFO 232
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#define KVM_CAP_GUEST_MEMFD 234
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
// Of this project's patch of the kernel (kernel/), out of the way of the numbers that upstream
// gives.
#ifndef KVM_CAP_LINK_GUEST_MEMFD
#define KVM_CAP_LINK_GUEST_MEMFD 10001
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#endif

// ---- SEV

#ifndef KVM_SEV_INIT2
#define KVM_SEV_INIT2 22
struct kvm_sev_init {
  __u64 vmsa_features;
  __u32 flags;
  __u16 ghcb_version;
  __u16 pad1;
  __u32 pad2[8];
};
#endif

namespace rehome {

// KVM_LINK_GUEST_MEMFD, in no kernel release (RFC v2 a6f82952d92c74b91f25390ed4d4ba760bf51263.
// 1747368092.git.afranji@google.com). The number differs between the two RFCs and collides with
// other proposals, so it is configuration: see LinkAbi.
struct LinkGuestMemfdArgs {
  uint64_t fd;
  uint64_t flags;
  uint64_t reserved[6];
};
inline constexpr unsigned long LinkGuestMemfdRequest(uint32_t number) {
  return _IOC(_IOC_READ | _IOC_WRITE, KVMIO, number, sizeof(LinkGuestMemfdArgs));
}

// The member `memory_fault` of struct kvm_run's union.
struct MemoryFaultExit {
  uint64_t flags;
  uint64_t gpa;
  uint64_t size;
};

static_assert(sizeof(kvm_userspace_memory_region2) == 160);
static_assert(sizeof(kvm_memory_attributes) == 32);
static_assert(sizeof(kvm_create_guest_memfd) == 64);
static_assert(sizeof(kvm_pre_fault_memory) == 64);
static_assert(sizeof(LinkGuestMemfdArgs) == 64);
static_assert(sizeof(kvm_enable_cap) == 104);
static_assert(sizeof(kvm_sev_cmd) == 24);
static_assert(sizeof(kvm_sev_init) == 48);
static_assert(sizeof(kvm_msr_entry) == 16);
static_assert(sizeof(kvm_cpuid_entry2) == 40);
static_assert(offsetof(kvm_cpuid2, entries) == 8);
static_assert(offsetof(kvm_msrs, entries) == 8);
static_assert(offsetof(kvm_msr_list, indices) == 4);
static_assert(sizeof(kvm_xsave) == 4096);

static_assert(KVM_GET_MSR_INDEX_LIST == 0xc004ae02);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
static_assert(KVM_GET_MSRS == 0xc008ae88);
static_assert(KVM_SET_MSRS == 0x4008ae89);
static_assert(KVM_SET_CPUID2 == 0x4008ae90);
static_assert(KVM_GET_XSAVE == 0x9000aea4);
static_assert(KVM_SET_XSAVE == 0x5000aea5);
static_assert(KVM_GET_XSAVE2 == 0x9000aecf);
static_assert(KVM_SET_USER_MEMORY_REGION2 == 0x40a0ae49);
static_assert(KVM_SET_MEMORY_ATTRIBUTES == 0x4020aed2);
static_assert(KVM_CREATE_GUEST_MEMFD == 0xc040aed4);
static_assert(KVM_PRE_FAULT_MEMORY == 0xc040aed5);
static_assert(LinkGuestMemfdRequest(0xd5) == 0xc040aed5);
static_assert(LinkGuestMemfdRequest(0xd6) == 0xc040aed6);
static_assert(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM == 206);
static_assert(KVM_EXIT_MEMORY_FAULT == 39);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_KVM_ABI_H_
