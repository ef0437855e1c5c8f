// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_GUEST_MEMFD_H_
#define REHOME_KVMGLUE_SIM_GUEST_MEMFD_H_

#include <cstddef>

#include "kvmglue/fd.h"
#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// GUEST_MEMFD_FLAG_* that KVM_CREATE_GUEST_MEMFD takes (kvm_gmem_get_supported_flags() of 6.18):
// INIT_SHARED only where memory is not split into private and shared.
uint64_t SupportedGuestMemfdFlags(VmType type);

// KVM_CREATE_GUEST_MEMFD: a sealed memfd. Without close-on-exec, as the kernel
// (get_unused_fd_flags(0)). EFAULT; EINVAL unknown flag, size 0 or not page-aligned; EMFILE; ENFILE
// after kMaxGuestMemfdFiles.
SysResult CreateGuestMemfd(LocalVm& vm, void* argument);

// KVM_LINK_GUEST_MEMFD (RFC v2): a second struct file, belonging to `vm`, for the inode of another
// VM's guest_memfd. Checks in the order of kvm_gmem_link(): EFAULT; EINVAL flags; fd not open (not
// EBADF); not a guest_memfd; already this VM's; then EMFILE and the like. Whether the source VM is
// dead does not matter. With `gate`, as the patch in kernel/ has it: reserved fields that are not 0
// and an fd beyond INT_MAX are EINVAL like flags, the new fd is close-on-exec, and the file is not
// accessible before MOVE, except for type default, which that patch refuses and the RFC allows.
SysResult LinkGuestMemfd(LocalVm& vm, bool gate, void* argument);

// mmap(2) of a guest_memfd: ENODEV without GUEST_MEMFD_FLAG_MMAP; EPERM for a gated link that MOVE
// has not opened, and in processes other than the VM's for a gated link at all, because they cannot
// know. Without INIT_SHARED accesses give SIGBUS. `vm` is this process's VM of tag.vm_id, or
// nullptr.
SysResult MapGuestMemfd(const LocalVm* vm, BorrowedFd fd, const FileTag& tag, size_t length,
                        off_t offset, void** address);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_GUEST_MEMFD_H_
