// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_OPTIONS_H_
#define REHOME_KVMGLUE_SIM_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// Which kernel is simulated. The default is one with this project's patch on a host that has
// everything. A stock kernel: types=default,link=none,move=none.
struct SimulatedKernelOptions {
  // What KVM_CREATE_VM accepts.
  std::set<VmType> vm_types = {VmType::kDefault, VmType::kSwProtected, VmType::kSev,
                               VmType::kSevEs,   VmType::kSnp,         VmType::kTdx};
  // For which types KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM has an implementation. SNP is never moved.
  std::set<VmType> move_types = {VmType::kSwProtected, VmType::kSev, VmType::kSevEs, VmType::kTdx};
  // Number of KVM_LINK_GUEST_MEMFD; none: ENOTTY, as on every kernel today.
  std::optional<uint32_t> link_ioctl_number = 0xd6;
  // LINK as in the patch of kernel/, above all the mapping gate: a linked guest_memfd can be bound,
  // but is not accessible before MOVE. Off is the RFC. The gate never holds for VM type default,
  // which has no MOVE that could open it.
  bool gate = true;
  // MOVE of SW_PROTECTED as in RFC v2: takes no vCPU lock (a running source gets EIO out of
  // KVM_RUN), compares no vCPU counts and only address space 0, and kills the source before the
  // vendor's part.
  bool rfc_v2_move = false;
  // What the vendor's part then returns: 0, or an errno with which the call fails although the
  // source is dead. REQUIRES rfc_v2_move.
  int rfc_v2_vendor_error = 0;
  // A second address space for VMs with private memory, which kernels up to now refuse
  // (kvm_arch_nr_memslot_as_ids()).
  bool smm_with_private_memory = false;
};

// From text, for command lines; what is not named keeps its default:
//   types=default+sev-es,move=sev-es,link=0xd6|none,gate=on|off,rfc_v2_move=on|off,
//   rfc_v2_vendor_error=EIO,smm=on|off
// INVALID_ARGUMENT / SIM_OPTIONS_INVALID naming the item.
absl::StatusOr<SimulatedKernelOptions> ParseSimulatedKernelOptions(std::string_view text);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_OPTIONS_H_
