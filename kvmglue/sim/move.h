// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_MOVE_H_
#define REHOME_KVMGLUE_SIM_MOVE_H_

#include "kvmglue/fd.h"
#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: makes `destination` the owner of the guest behind `source_fd`
// and kills the source. On failure nothing has changed (except with rfc_v2_vendor_error).
//
// Checks in this order. SEV and SEV-ES as upstream (arch/x86/kvm/svm/sev.c,
// sev_vm_move_enc_context_from); so is type default, which gets EINVAL unless it was made a SEV
// guest by KVM_SEV_INIT:
//   EINVAL  move_types has no type of this vendor (the op is NULL)
//   EBADF   source_fd is not a VM
//   EINVAL  the same VM
//   EBUSY   a move with one of the two is under way
//   EINVAL  other VM type, destination has a context, source has none (or is dead), SNP
//   (blocks until no vCPU of either VM is in KVM_RUN)
//   EINVAL  SEV-ES: vCPU counts differ, or a source vCPU has no VMSA
// SW_PROTECTED and TDX as RFC v2 with the seed's rule and this project's additions (rfc_v2_move
// drops these for SW_PROTECTED):
//   EINVAL, EBADF as above; EINVAL other VM type; EINVAL the same VM; EBUSY
//   EIO     source or destination is dead
//   (blocks as above)
//   EINVAL  vCPU counts differ
//   EINVAL  bindings differ (binding_match.h)
// What the real one has beyond that cannot fail here: the misc cgroup charge (EBUSY), signals while
// waiting (EINTR: only fatal ones), vCPU creation in flight (EBUSY).
//
// Carries: memory attributes, SEV state, the accessibility of the destination's bound links, and
// for SEV-ES and TDX the vCPUs' registers.
SysResult MoveEncContextFrom(const SimulatedKernelOptions& options, LocalVm& destination,
                             BorrowedFd source_fd);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_MOVE_H_
