// SPDX-License-Identifier: Apache-2.0
//
// What this host's kernel can really do, found by behaviour on throw-away VMs. KVM_CHECK_EXTENSION
// is not believed: on every x86 host it says 1 for KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, also where
// KVM_ENABLE_CAP gives EINVAL (arch/x86/kvm/x86.c, kvm_vm_ioctl_check_extension_generic).
#ifndef REHOME_KVMGLUE_CAPABILITIES_H_
#define REHOME_KVMGLUE_CAPABILITIES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
#include "kvmglue/vm_type.h"

namespace rehome {

struct Capability {
  std::string
      name;  // stable: "kvm", "vm_type_sev", "guest_memfd", "guest_memfd_mmap",
             // "guest_memfd_link", "move_enc_context_sw_protected", "memory_attributes", ...
  bool available = false;
  std::string reason;  // UPPER_SNAKE when not available
  std::string detail;  // what was tried and what came back, errno included
};

struct HostCapabilities {
  std::string backend;         // "kvm" or "sim"
  std::string kernel_release;  // uname -r
  std::string machine;         // CPU model name of /proc/cpuinfo
  LinkAbi link_abi;
  std::vector<Capability> capabilities;

  bool Has(std::string_view name) const;
  // nullptr if there is none of that name.
  const Capability* Find(std::string_view name) const;
  bool HasVmType(VmType type) const;  // Has("vm_type_" + name with '_')
  bool CanLink() const;               // "guest_memfd_link"
  bool CanMove(VmType type) const;    // "move_enc_context_<type>": op present and type creatable
};

// Opens /dev/kvm, creates and destroys VMs of each type. Never fails: what cannot be found out is a
// capability that is not available, with the reason.
HostCapabilities ProbeHost(KvmSyscalls& kernel, const LinkAbi& link_abi);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_CAPABILITIES_H_
