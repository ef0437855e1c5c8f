// SPDX-License-Identifier: Apache-2.0
//
// One probe for each capability. Each says in words what it tried and what came back.
#ifndef REHOME_KVMGLUE_CAPABILITY_PROBES_H_
#define REHOME_KVMGLUE_CAPABILITY_PROBES_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// What a probe found: a detail that says how it is there, or an error whose reason and message
// become those of the capability.
using Probe = absl::StatusOr<std::string>;

// What probes work with; all of it outlives them.
struct ProbeBench {
  KvmSyscalls& kernel;
  BorrowedFd kvm;
  LinkAbi link_abi;
};

// /dev/kvm can be opened and speaks the only API version there is.
Probe ProbeKvm(KvmSyscalls& kernel, UniqueFd& kvm);

// KVM_CREATE_VM. SNP is reported as SNP_REFUSED whatever the kernel says: kernels before the
// explicit check in sev_vm_move_enc_context_from() accept the move of an SNP guest and lose its
// state.
Probe ProbeVmType(const ProbeBench& bench, VmType type);

// A guest_memfd can be created and bound to a VM of this type. (Kernels up to 6.17 create one for
// any VM, and bind it only to VMs with private memory.)
Probe ProbeGuestMemfd(const ProbeBench& bench, VmType type);

// It can be mapped, and the mapping be written.
Probe ProbeGuestMemfdMmap(const ProbeBench& bench, VmType type);

// KVM_LINK_GUEST_MEMFD: first with flags that no version accepts (EINVAL = there, ENOTTY = not),
// then for real between two VMs, since the number is configured and could be that of another ioctl.
Probe ProbeLink(const ProbeBench& bench, VmType type);

// KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM from a descriptor that is not open: EBADF = the operation
// exists, EINVAL = it does not. For SW_PROTECTED then a real move between two empty VMs: stock AMD
// kernels have the operation for SEV guests only.
Probe ProbeMove(const ProbeBench& bench, VmType type);

// KVM_SET_MEMORY_ATTRIBUTES of one page.
Probe ProbeMemoryAttributes(const ProbeBench& bench, VmType type);

// Of a vCPU of a default VM.
Probe ProbePreFault(const ProbeBench& bench);
Probe ProbeXsave2(const ProbeBench& bench);
Probe ProbeSregs2(const ProbeBench& bench);
Probe ProbeTscOffset(const ProbeBench& bench);
Probe ProbeSyncRegs(const ProbeBench& bench);

// KVM_IRQFD on a VM with in-kernel irqchip.
Probe ProbeIrqfd(const ProbeBench& bench);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_CAPABILITY_PROBES_H_
