// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/probe.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/guest_memfd.h"
#include "kvmglue/sim/memory_attributes.h"
#include "kvmglue/sim/memslots.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

// CPUID of a plain 64-bit processor with KVM's leaves. Leaf 0xb is for whoever makes a topology of
// it.
constexpr kvm_cpuid_entry2 kCpuid[] = {
    {.function = 0x0, .eax = 0xd, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
    {.function = 0x1, .eax = 0x00a20f10, .ebx = 0x00000800, .ecx = 0x80202001, .edx = 0x078bfbff},
    {.function = 0xb,
     .index = 0,
     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
     .eax = 0,
     .ebx = 1,
     .ecx = 0x100},
    {.function = 0xb,
     .index = 1,
     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
     .eax = 0,
     .ebx = 1,
     .ecx = 0x201},
    {.function = 0xd,
     .index = 0,
     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
     .eax = 3,
     .ebx = 0x240,
     .ecx = 0x240},
    {.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
    {.function = 0x40000001, .eax = 0x01000089},
    {.function = 0x80000000,
     .eax = 0x80000008,
     .ebx = 0x68747541,
     .ecx = 0x444d4163,
     .edx = 0x69746e65},
    {.function = 0x80000001, .eax = 0x00a20f10, .ecx = 0x00000001, .edx = 0x28100800},
    {.function = 0x80000008, .eax = 0x00003030},
};

// Capabilities that are simply there.
constexpr unsigned long kPresent[] = {
    KVM_CAP_IRQCHIP,
    KVM_CAP_HLT,
    KVM_CAP_USER_MEMORY,
    KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_EXT_CPUID,
    KVM_CAP_MP_STATE,
    KVM_CAP_SYNC_MMU,
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    KVM_CAP_PIT2,
    KVM_CAP_PIT_STATE2,
    KVM_CAP_SET_IDENTITY_MAP_ADDR,
    KVM_CAP_VCPU_EVENTS,
    KVM_CAP_DEBUGREGS,
    KVM_CAP_XSAVE,
    KVM_CAP_XCRS,
    KVM_CAP_GET_TSC_KHZ,
    KVM_CAP_TSC_CONTROL,
    KVM_CAP_KVMCLOCK_CTRL,
    KVM_CAP_READONLY_MEM,
    KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_VCPU_ATTRIBUTES,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_SREGS2,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CAP_USER_MEMORY2,
    KVM_CAP_MEMORY_FAULT_INFO,
    KVM_CAP_GUEST_MEMFD,
};

long TypeMask(const SimulatedKernelOptions& options) {
  long mask = 0;
  for (const VmType type : options.vm_types) mask |= 1L << static_cast<uint32_t>(type);
  return mask;
}

bool AnyHasPrivateMemory(const SimulatedKernelOptions& options) {
  return std::any_of(options.vm_types.begin(), options.vm_types.end(), HasPrivateMemory);
}

long MemoryAttributes(const SimulatedKernelOptions& options, std::optional<VmType> type) {
  if (type) return static_cast<long>(SupportedAttributes(*type));
  return AnyHasPrivateMemory(options) ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
}

// Whether what `type` has in memory can be linked and moved, as the patch of kernel/ says it.
bool CanLink(const SimulatedKernelOptions& options, std::optional<VmType> type) {
  if (!options.link_ioctl_number || !options.gate) return false;
  return !type || (*type != VmType::kSnp && options.move_types.contains(*type));
}

bool HasSev(const SimulatedKernelOptions& options) {
  return options.vm_types.contains(VmType::kSev) || options.vm_types.contains(VmType::kSevEs);
}

}  // namespace

long CheckExtension(const SimulatedKernelOptions& options, std::optional<VmType> type,
                    unsigned long extension) {
  if (std::count(std::begin(kPresent), std::end(kPresent), extension) != 0) return 1;
  switch (extension) {
    case KVM_CAP_VM_COPY_ENC_CONTEXT_FROM:
      return HasSev(options) ? 1 : 0;
    case KVM_CAP_NR_VCPUS:
    case KVM_CAP_MAX_VCPUS:
    case KVM_CAP_MAX_VCPU_ID:
      return kMaxVcpus;
    case KVM_CAP_NR_MEMSLOTS:
      return kMaxSlots;
    case KVM_CAP_MULTI_ADDRESS_SPACE:
      return type ? AddressSpaceCount(options, *type) : kAddressSpaces;
    case KVM_CAP_ADJUST_CLOCK:
      return KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    case KVM_CAP_XSAVE2:
      return kXsaveBytes;
    case KVM_CAP_MEMORY_ATTRIBUTES:
      return MemoryAttributes(options, type);
    case KVM_CAP_GUEST_MEMFD_FLAGS:
      return static_cast<long>(SupportedGuestMemfdFlags(type.value_or(VmType::kDefault)));
    case KVM_CAP_LINK_GUEST_MEMFD:
      return CanLink(options, type) ? 1 : 0;
    case KVM_CAP_VM_TYPES:
      return TypeMask(options);
    default:
      return 0;
  }
}

SysResult GetSupportedCpuid(void* argument) {
  kvm_cpuid2 header;
  if (!CopyIn(argument, header)) return Failure(EFAULT);
  const bool fits = header.nent >= std::size(kCpuid);
  header.nent = std::size(kCpuid);
  CopyOut(argument, header);
  if (!fits) return Failure(E2BIG);
  std::memcpy(static_cast<kvm_cpuid2*>(argument)->entries, kCpuid, sizeof(kCpuid));
  return Success();
}

SysResult GetMsrIndexList(void* argument) {
  kvm_msr_list header;
  if (!CopyIn(argument, header)) return Failure(EFAULT);
  const bool fits = header.nmsrs >= kMsrIndices.size();
  header.nmsrs = kMsrIndices.size();
  CopyOut(argument, header);
  if (!fits) return Failure(E2BIG);
  std::memcpy(static_cast<kvm_msr_list*>(argument)->indices, kMsrIndices.data(),
              sizeof(kMsrIndices));
  return Success();
}

}  // namespace rehome::sim
