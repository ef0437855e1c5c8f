// SPDX-License-Identifier: Apache-2.0
//
// How the simulated kernel knows its files. Every fd it gives out is a memfd, sealed in one way,
// with a tag in the *file position*. The position belongs to the open file description: shared by
// dup(2) and SCM_RIGHTS, not shared by a second open of the same inode. That is just what separates
// the `struct file` of a guest_memfd (which belongs to one VM) from its inode (which may have
// several), and none of the real files has a position. Names play no part.
#ifndef REHOME_KVMGLUE_SIM_FILE_TAG_H_
#define REHOME_KVMGLUE_SIM_FILE_TAG_H_

#include <cstdint>

#include "kvmglue/fd.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

enum class FileKind {
  kNotOpen,  // EBADF
  kForeign,  // not a file of the simulated kernel
  kSystem,   // /dev/kvm
  kVm,
  kVcpu,
  kGuestMemfd,
};

struct FileTag {
  FileKind kind = FileKind::kForeign;
  uint32_t index = 0;  // kVcpu: vCPU number; kGuestMemfd: place in the VM's file table
  uint64_t vm_id = 0;  // inode number of the VM's memfd
  // kGuestMemfd only. The first two belong to the inode and are copied to links.
  bool mappable = false;     // GUEST_MEMFD_FLAG_MMAP
  bool init_shared = false;  // GUEST_MEMFD_FLAG_INIT_SHARED
  bool gated = false;        // a link that opens only with MOVE
};

// What fits beside the magic in 63 bits.
inline constexpr uint64_t kMaxVmId = (uint64_t{1} << 37) - 1;
inline constexpr uint32_t kMaxFileIndex = (1u << 9) - 1;

FileTag ReadTag(BorrowedFd fd);

// Tags the open file description of `fd`. ERANGE if the tag does not fit.
SysResult WriteTag(BorrowedFd fd, const FileTag& tag);

// memfd_create(2) with `size` bytes of zeros and the seals that ReadTag() looks for; close-on-exec.
SysResult CreateSealedMemfd(const char* name, uint64_t size);

// A second open file description of the inode behind `fd`: open(2) of /proc/self/fd. Untagged.
SysResult ReopenInode(BorrowedFd fd, bool close_on_exec);

// A *mark* is a read lock on one byte of the inode, owned by an open file description
// (F_OFD_SETLK). It goes when the last copy of that description is closed in whatever process, also
// by SIGKILL: the way in which the simulated kernel learns of close(2), which it cannot see.
SysResult SetMark(BorrowedFd fd, uint64_t mark);

// Whether a description other than that of `fd` holds a mark in [first, first + count).
bool IsMarked(BorrowedFd fd, uint64_t first, uint64_t count);

// The mark of a file of VM `vm_id` on a guest_memfd's inode.
uint64_t GuestMemfdMark(uint64_t vm_id, uint32_t index);
// Marks on a VM's inode: 0 is the VM fd, 1 + n is vCPU n.
inline constexpr uint64_t kVmMark = 0;
inline constexpr uint64_t kFirstVcpuMark = 1;

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_FILE_TAG_H_
