// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_GUEST_MEMORY_H_
#define REHOME_KVMGLUE_SIM_GUEST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvmglue/fd.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// The kernel's own access to the pages of a guest_memfd: the whole inode mapped through an own open
// file description, whatever mmap(2) of the caller's fd may say, and without keeping that fd alive.
class GuestMemory {
 public:
  static SysResult Map(BorrowedFd guest_memfd, std::shared_ptr<GuestMemory>& memory);
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  std::byte* base() const { return base_; }
  uint64_t size() const { return size_; }
  InodeId id() const { return id_; }
  // Whether file `index` of VM `vm_id` on this inode is still open in any process. Closing the last
  // copy of a guest_memfd unbinds it (virt/kvm/guest_memfd.c, kvm_gmem_release()).
  bool IsFileOpen(uint64_t vm_id, uint32_t index) const;

 private:
  GuestMemory(UniqueFd fd, std::byte* base, uint64_t size, InodeId id);

  UniqueFd fd_;
  std::byte* base_;
  uint64_t size_;
  InodeId id_;
};

// Whether every page of [address, address + length) of this process is mapped, as get_user_pages()
// would find out; does not look at protections.
bool IsHostRangeMapped(const void* address, uint64_t length);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_GUEST_MEMORY_H_
