// SPDX-License-Identifier: Apache-2.0
//
// What a descriptor from a VMM really is. A VMM says "this is my VM, this is my memory"; passing a
// directory, a device or somebody's socket on as guest memory must fail here, not in the target.
//
// None of these calls may wait for another process: a descriptor may belong to a file system that
// its sender implements (FUSE), where stat(2) takes as long as the sender likes. So the name is
// read first (readlink(2) of /proc/self/fd/N asks no file system), and only what looks right is
// asked further.
#ifndef REHOME_DAEMON_FD_KINDS_H_
#define REHOME_DAEMON_FD_KINDS_H_

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "kvmglue/fd.h"

namespace rehome {

// Thread-safe. Errors: INVALID_ARGUMENT / AGENT_PROTOCOL_VIOLATION, saying what the descriptor is.
class FdKinds {
 public:
  virtual ~FdKinds() = default;
  virtual absl::Status CheckVm(BorrowedFd fd) const = 0;
  virtual absl::Status CheckMemory(BorrowedFd fd) const = 0;
  // CONFIG: a memfd of 1 to REHOME_MAX_CONFIG bytes that nobody can change any more. The same on
  // every kernel.
  absl::Status CheckConfig(BorrowedFd fd) const;
  // BLOCK: a memfd whose size nobody can change, which says that it is the handover block of
  // `migration_id`. The same on every kernel. Whoever maps it checks the rest
  // (rehome_block_map()).
  absl::Status CheckBlock(BorrowedFd fd, std::string_view migration_id) const;
};

// Real KVM: a VM is a kvm-vm file, memory is a guest_memfd or a memfd.
std::unique_ptr<FdKinds> NewKvmFdKinds();
// The simulated kernel, whose VMs and guest_memfds are memfds.
std::unique_ptr<FdKinds> NewSimFdKinds();

// "anon_inode:kvm-vm" (virt/kvm/kvm_main.c, kvm_dev_ioctl_create_vm()). The prefix is written by
// the anon_inode file system alone: the path of any other file begins with '/' or with the name of
// another pseudo file system. VM and vCPU files share one inode, so the number says nothing.
bool IsKvmVm(BorrowedFd fd);
// Up to 6.18 "anon_inode:[kvm-gmem]"; from 6.19 on a file system of its own, whose name
// "/[kvm-gmem] (deleted)" anybody could give to a file, but not its f_type (GUEST_MEMFD_MAGIC).
bool IsGuestMemfd(BorrowedFd fd);
// "/memfd:NAME (deleted)" on tmpfs or hugetlbfs. The name could be imitated; file seals, which
// exist on these two file systems only (mm/memfd.c, memfd_file_seals_ptr()), and the missing link
// could not, and a deleted file of a tmpfs is as good as a memfd.
bool IsMemfd(BorrowedFd fd);

}  // namespace rehome

#endif  // REHOME_DAEMON_FD_KINDS_H_
