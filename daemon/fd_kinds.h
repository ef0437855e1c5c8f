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

// Thread-safe. Errors: INVALID_ARGUMENT / AGENT_PROTOCOL_VIOLATION, saying what the descriptor is;
// INTERNAL / SYSCALL_FAILED if it cannot be looked at, which is no fault of who sent it.
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

}  // namespace rehome

#endif  // REHOME_DAEMON_FD_KINDS_H_
