// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu.h"

namespace rehome {
namespace {

// KVM_MAX_CPUID_ENTRIES (arch/x86/include/asm/kvm_host.h).
constexpr uint32_t kMaxCpuidEntries = 256;
// APIC IDs are 8 bits wide without KVM_CAP_X2APIC_API, and 255 is the broadcast.
constexpr uint32_t kMaxCpus = 255;

constexpr size_t CpuidBytes(uint32_t entries) {
  return offsetof(kvm_cpuid2, entries) + entries * sizeof(kvm_cpuid_entry2);
}

// Leaf 0xb and 0x1f: one thread per core, all cores in one package.
void SetTopologyLeaf(kvm_cpuid_entry2& entry, uint32_t index, uint32_t count) {
  constexpr uint32_t kThreadLevel = 1u << 8;
  constexpr uint32_t kCoreLevel = 2u << 8;
  entry.eax = entry.ebx = 0;
  entry.ecx = entry.index;
  entry.edx = index;
  if (entry.index == 0) {
    entry.ebx = 1;
    entry.ecx |= kThreadLevel;
  } else if (entry.index == 1) {
    entry.eax = std::bit_width(count - 1);  // bits of the APIC ID that tell cores apart
    entry.ebx = count;
    entry.ecx |= kCoreLevel;
  }
}

// Intel SDM vol. 2A and AMD APM vol. 3, CPUID: what depends on the vCPU, and what must not be
// there.
void Adjust(kvm_cpuid_entry2& entry, uint32_t index, uint32_t count) {
  constexpr uint32_t kVmx = 1u << 5;
  constexpr uint32_t kSvm = 1u << 2;
  constexpr uint32_t kHypervisor = 1u << 31;
  switch (entry.function) {
    case 1:
      entry.ebx = (entry.ebx & 0xffff) | count << 16 | index << 24;
      entry.ecx = (entry.ecx & ~kVmx) | kHypervisor;
      break;
    case 0xb:
    case 0x1f:
      SetTopologyLeaf(entry, index, count);
      break;
    case 0x80000001:
      entry.ecx &= ~kSvm;
      break;
    case 0x80000008:
      entry.ecx = (entry.ecx & ~0xf0ffu) | (count - 1);
      break;
    case 0x8000001e:
      entry.eax = index;
      entry.ebx = (entry.ebx & ~0xffffu) | index;  // core ID; 0 in bits 15:8 is one thread per core
      entry.ecx = 0;
      break;
  }
}

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "CPUID_INVALID", what);
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> DefaultCpuid(KvmSyscalls& kernel, uint32_t index,
                                                    uint32_t count) {
  if (count == 0 || count > kMaxCpus || index >= count) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "BAD_VCPU_INDEX",
                      absl::StrCat("vCPU ", index, " of ", count));
  }
  absl::StatusOr<UniqueFd> kvm = AdoptFd(kernel.OpenKvm(), KernelCall::kOpenKvm, "");
  if (!kvm.ok()) return kvm.status();
  std::vector<std::byte> bytes(CpuidBytes(kMaxCpuidEntries));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(bytes.data());
  cpuid->nent = kMaxCpuidEntries;
  absl::Status status = CallIoctl(kernel, kvm->borrow(), KernelCall::kGetSupportedCpuid,
                                  KVM_GET_SUPPORTED_CPUID, cpuid);
  if (!status.ok()) return status;
  if (cpuid->nent > kMaxCpuidEntries) return Invalid(absl::StrCat(cpuid->nent, " entries"));
  for (uint32_t i = 0; i < cpuid->nent; ++i) Adjust(cpuid->entries[i], index, count);
  bytes.resize(CpuidBytes(cpuid->nent));
  return bytes;
}

void AddTscDeadline(std::span<std::byte> cpuid2) {
  constexpr uint32_t kTscDeadline = 1u << 24;
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(cpuid2.data());
  for (uint32_t i = 0; i < cpuid->nent; ++i) {
    if (cpuid->entries[i].function == 1) cpuid->entries[i].ecx |= kTscDeadline;
  }
}

absl::Status Vcpu::SetCpuid(std::span<const std::byte> cpuid2) {
  if (cpuid2.size() < CpuidBytes(0)) return Invalid("shorter than its header");
  uint32_t entries = 0;
  std::memcpy(&entries, cpuid2.data() + offsetof(kvm_cpuid2, nent), sizeof(entries));
  if (entries > kMaxCpuidEntries || cpuid2.size() != CpuidBytes(entries)) {
    return Invalid(absl::StrCat(cpuid2.size(), " bytes for ", entries, " entries"));
  }
  absl::Status status =
      Call(KernelCall::kSetCpuid, KVM_SET_CPUID2, IoctlInput(cpuid2.data()), "KVM_SET_CPUID2");
  return status.ok() ? Prepare() : status;
}

}  // namespace rehome
