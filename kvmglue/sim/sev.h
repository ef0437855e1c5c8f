// SPDX-License-Identifier: Apache-2.0
//
// SEV and SEV-ES as far as ownership of a guest is concerned: the launch states and who may do what
// in which. Nothing is encrypted. SNP and TDX have no launch commands here: such guests can run at
// once.
#ifndef REHOME_KVMGLUE_SIM_SEV_H_
#define REHOME_KVMGLUE_SIM_SEV_H_

#include "kvmglue/fd.h"
#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// KVM_MEMORY_ENCRYPT_OP (arch/x86/kvm/svm/sev.c, sev_mem_enc_ioctl()). ENOTTY without SEV on the
// host or, except for the INITs, in a VM that is not SEV's; EINVAL an unknown command, a command
// that a mirror may not run, INIT of the wrong VM type, twice or with vCPUs; EIO the firmware
// refuses (wrong launch state), with the firmware's error in kvm_sev_cmd.error; EFAULT.
SysResult MemoryEncryptOp(const SimulatedKernelOptions& options, LocalVm& vm, void* argument);

// KVM_MEMORY_ENCRYPT_REG_REGION and _UNREG_REGION. ENOTTY in a VM that is not SEV's; EINVAL for a
// mirror, and for unregistering what is not registered; ENOMEM not mapped, or too many; EFAULT.
SysResult RegisterEncryptedRegion(LocalVm& vm, void* argument);
SysResult UnregisterEncryptedRegion(LocalVm& vm, void* argument);

// KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: makes `vm` a mirror of the VM behind `source_fd`. EBADF not a
// VM; EINVAL the same VM, a mirror or not a SEV guest, SNP, or `vm` has vCPUs or a context; EBUSY a
// move is under way.
SysResult CopyEncContextFrom(LocalVm& vm, BorrowedFd source_fd);

// KVM_RUN of a vCPU whose VM the hardware would not enter: no ASID yet, or no VMSA. 0 or EINVAL.
int SevEntryError(const VmObject& vm, uint32_t vcpu);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_SEV_H_
