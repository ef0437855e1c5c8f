// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/guest_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "kvmglue/sim/file_tag.h"

namespace rehome::sim {

SysResult GuestMemory::Map(BorrowedFd guest_memfd, std::shared_ptr<GuestMemory>& memory) {
  const SysResult reopened = ReopenInode(guest_memfd, /*close_on_exec=*/true);
  if (!reopened.ok()) return reopened;
  UniqueFd fd(static_cast<int>(reopened.value));

  struct stat status;
  const SysResult step = CaptureErrno(fstat(fd.borrow().raw(), &status));
  if (!step.ok()) return step;
  const auto size = static_cast<uint64_t>(status.st_size);
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.borrow().raw(), 0);
  if (base == MAP_FAILED) return {-1, errno};
  memory.reset(new GuestMemory(std::move(fd), static_cast<std::byte*>(base), size,
                               {status.st_dev, status.st_ino}));
  return {0, 0};
}

GuestMemory::GuestMemory(UniqueFd fd, std::byte* base, uint64_t size, InodeId id)
    : fd_(std::move(fd)), base_(base), size_(size), id_(id) {}

GuestMemory::~GuestMemory() { munmap(base_, size_); }

bool GuestMemory::IsFileOpen(uint64_t vm_id, uint32_t index) const {
  return IsMarked(fd_.borrow(), GuestMemfdMark(vm_id, index), 1);
}

bool IsHostRangeMapped(const void* address, uint64_t length) {
  // MS_ASYNC writes nothing (mm/msync.c); what is left is the walk over the mappings.
  const auto start = reinterpret_cast<uintptr_t>(address);
  const uintptr_t aligned = start & ~uintptr_t{4095};
  return msync(reinterpret_cast<void*>(aligned), length + (start - aligned), MS_ASYNC) == 0;
}

}  // namespace rehome::sim
