// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_VM_TYPE_H_
#define REHOME_KVMGLUE_VM_TYPE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace rehome {

// The argument of KVM_CREATE_VM on x86; values are the kernel's (arch/x86/include/uapi/asm/kvm.h,
// KVM_X86_*_VM).
enum class VmType : uint32_t {
  kDefault = 0,
  kSwProtected = 1,
  kSev = 2,
  kSevEs = 3,
  kSnp = 4,
  kTdx = 5,
};

// "default", "sw-protected", "sev", "sev-es", "snp", "tdx".
std::string_view VmTypeName(VmType type);
std::optional<VmType> VmTypeFromName(std::string_view name);
std::optional<VmType> VmTypeFromNumber(uint32_t number);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VM_TYPE_H_
