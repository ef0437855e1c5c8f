// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/misbehaviour.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace rehome {
namespace {

constexpr uint64_t kPage = 4096;

rehome_vm_fd* FindFd(rehome_vm& vm, uint32_t role) {
  rehome_vm_fd* end = vm.fds + vm.fd_count;
  return std::find_if(vm.fds, end, [role](const auto& fd) { return fd.entry.role == role; });
}

// A file like the source's, but another one; every slot says so.
void SubstituteMemory(rehome_vm& target, UniqueFd& prop) {
  rehome_vm_fd* memory = FindFd(target, REHOME_FD_MEMORY);
  prop = UniqueFd(memfd_create("not-the-source's", MFD_CLOEXEC));
  const auto real = Identify(BorrowedFd(memory->fd));
  if (!real.ok() || ftruncate(prop.borrow().raw(), static_cast<off_t>(real->size_bytes)) < 0) {
    return;
  }
  memory->fd = prop.borrow().raw();
  const auto identity = Identify(prop.borrow());
  for (uint32_t i = 0; i < target.slot_count; ++i) {
    if (target.slots[i].memory_index != memory->entry.index) continue;
    target.slots[i].device = identity->id.device;
    target.slots[i].inode = identity->id.inode;
  }
}

}  // namespace

void Misbind(Misbehaviour kind, std::vector<RamSlot>& slots) {
  if (kind == Misbehaviour::kBinding) slots.back().slot.gpa += kPage;
}

void Misbehave(Misbehaviour kind, rehome_vm& target, UniqueFd& prop) {
  switch (kind) {
    case Misbehaviour::kNone:
    case Misbehaviour::kEarlyRun:  // its answer is true
      return;
    case Misbehaviour::kVmType:
      target.vm_type ^= 1;
      return;
    case Misbehaviour::kVcpuCount:
      ++target.vcpu_count;
      return;
    case Misbehaviour::kLayout:
      target.slots[0].size -= kPage;
      break;
    case Misbehaviour::kOverlap:
      target.slots[target.slot_count] = target.slots[0];
      target.slots[target.slot_count].slot = target.slot_count;
      ++target.slot_count;
      break;
    case Misbehaviour::kForeignInode:
      SubstituteMemory(target, prop);
      break;
    case Misbehaviour::kMissingFd:
      target.fd_count = static_cast<uint32_t>(
          std::remove_if(target.fds, target.fds + target.fd_count,
                         [](const auto& fd) { return fd.entry.role == REHOME_FD_MEMORY; }) -
          target.fds);
      return;
    case Misbehaviour::kExtraFd: {
      rehome_vm_fd& extra = target.fds[target.fd_count++];
      extra = *FindFd(target, REHOME_FD_MEMORY);
      extra.entry.index = REHOME_MAX_MEMORIES - 1;
      return;
    }
    case Misbehaviour::kWrongFd:
      prop = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC));
      FindFd(target, REHOME_FD_VM)->fd = prop.borrow().raw();
      return;
    case Misbehaviour::kBinding:
      target.slots[target.slot_count - 1].gpa -= kPage;
      break;
  }
  // A liar with a consistent story.
  target.layout_digest = rehome_layout_digest(target.slots, target.slot_count);
}

}  // namespace rehome
