// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memslots.h"

#include <cstring>
#include <memory>
#include <mutex>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

constexpr uint32_t kGuestMemfd = KVM_MEM_GUEST_MEMFD;

using Region = kvm_userspace_memory_region2;

uint32_t AddressSpaceOf(const Region& region) { return region.slot >> 16; }
uint32_t NumberOf(const Region& region) { return region.slot & 0xffff; }
bool HasGuestMemfd(const Region& region) { return (region.flags & kGuestMemfd) != 0; }

bool Overflows(uint64_t start, uint64_t size) { return start + size < start; }

// What can be said of a request without looking at the VM's slots.
bool IsWellFormed(const Region& region, uint32_t address_spaces) {
  const uint32_t allowed =
      HasGuestMemfd(region) ? kGuestMemfd : KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;
  if ((region.flags & ~allowed) != 0) return false;
  if (!IsPageAligned(region.memory_size) || !IsPageAligned(region.guest_phys_addr)) return false;
  if (!IsPageAligned(region.userspace_addr)) return false;
  if (Overflows(region.userspace_addr, region.memory_size)) return false;
  if (HasGuestMemfd(region) && (!IsPageAligned(region.guest_memfd_offset) ||
                                Overflows(region.guest_memfd_offset, region.memory_size))) {
    return false;
  }
  if (AddressSpaceOf(region) >= address_spaces || NumberOf(region) >= kMaxSlots) return false;
  return !Overflows(region.guest_phys_addr, region.memory_size);
}

bool OverlapsAnother(const SlotTable& table, const Region& region) {
  const auto& slots = table.slots[AddressSpaceOf(region)];
  for (uint32_t number = 0; number < kMaxSlots; ++number) {
    const Slot& other = slots[number];
    if (number == NumberOf(region) || other.size == 0) continue;
    if (region.guest_phys_addr < other.gpa + other.size &&
        other.gpa < region.guest_phys_addr + region.memory_size) {
      return true;
    }
  }
  return false;
}

bool OverlapsInFile(const SlotTable& table, const Region& region, uint32_t file_index) {
  for (const auto& slots : table.slots) {
    for (const Slot& other : slots) {
      if (other.size == 0 || (other.flags & kGuestMemfd) == 0) continue;
      if (other.file_index == file_index &&
          region.guest_memfd_offset < other.guest_memfd_offset + other.size &&
          other.guest_memfd_offset < region.guest_memfd_offset + region.memory_size) {
        return true;
      }
    }
  }
  return false;
}

// kvm_gmem_bind(): finds the file and maps it, unless the VM has it mapped already.
SysResult Bind(const LocalVm& vm, const Region& region, Slot& slot,
               std::shared_ptr<GuestMemory>& memory) {
  const BorrowedFd fd(static_cast<int>(region.guest_memfd));
  const FileTag tag = ReadTag(fd);
  if (tag.kind == FileKind::kNotOpen) return Failure(EBADF);
  const VmObject& object = vm.object();
  if (tag.kind != FileKind::kGuestMemfd || tag.vm_id != object.id) return Failure(EINVAL);

  const GuestMemfdFile& file = object.files[tag.index];
  if (region.guest_memfd_offset + region.memory_size > file.size) return Failure(EINVAL);
  if (OverlapsInFile(object.slots.Get(), region, tag.index)) return Failure(EINVAL);
  slot.file_index = tag.index;
  slot.guest_memfd_offset = region.guest_memfd_offset;
  if (vm.FindMemory({file.device, file.inode}) != nullptr) return Success();
  return GuestMemory::Map(fd, memory);
}

void Store(LocalVm& vm, const Region& region, const Slot& slot,
           std::shared_ptr<GuestMemory> memory) {
  vm.object().slots.Update(
      [&](SlotTable& table) { table.slots[AddressSpaceOf(region)][NumberOf(region)] = slot; });
  vm.UpdateView(std::move(memory));
}

// A slot that is there: may be moved and have its dirty logging switched, unless it is
// guest_memfd's.
SysResult CheckModification(const Slot& old, const Region& region) {
  const bool immutable = HasGuestMemfd(region) || region.userspace_addr != old.userspace_addr ||
                         region.memory_size != old.size ||
                         ((region.flags ^ old.flags) & (KVM_MEM_READONLY | kGuestMemfd)) != 0;
  return immutable ? Failure(EINVAL) : Success();
}

SysResult SetRegion(const SimulatedKernelOptions& options, LocalVm& vm, const Region& region) {
  if (!IsWellFormed(region, AddressSpaceCount(options, vm.object().vm_type()))) {
    return Failure(EINVAL);
  }
  std::lock_guard<RobustMutex> guard(vm.object().memory_lock);
  const SlotTable& table = vm.object().slots.Get();
  const Slot old = table.slots[AddressSpaceOf(region)][NumberOf(region)];

  if (region.memory_size == 0) {
    if (old.size == 0) return Failure(EINVAL);
    Store(vm, region, Slot{}, nullptr);
    return Success();
  }
  if (old.size != 0) {
    const SysResult allowed = CheckModification(old, region);
    if (!allowed.ok()) return allowed;
    if (region.guest_phys_addr == old.gpa && region.flags == old.flags) return Success();
  }
  if (region.guest_phys_addr != old.gpa || old.size == 0) {
    if (OverlapsAnother(table, region)) return Failure(EEXIST);
  }

  Slot slot = {};
  slot.gpa = region.guest_phys_addr;
  slot.size = region.memory_size;
  slot.userspace_addr = region.userspace_addr;
  slot.flags = region.flags;
  std::shared_ptr<GuestMemory> memory;
  if (HasGuestMemfd(region)) {
    const SysResult bound = Bind(vm, region, slot, memory);
    if (!bound.ok()) return bound;
  }
  Store(vm, region, slot, std::move(memory));
  return Success();
}

}  // namespace

uint32_t AddressSpaceCount(const SimulatedKernelOptions& options, VmType type) {
  return HasPrivateMemory(type) && !options.smm_with_private_memory ? 1 : kAddressSpaces;
}

SysResult SetUserMemoryRegion2(const SimulatedKernelOptions& options, LocalVm& vm, void* argument) {
  Region region;
  if (!CopyIn(argument, region)) return Failure(EFAULT);
  return SetRegion(options, vm, region);
}

SysResult SetUserMemoryRegion(const SimulatedKernelOptions& options, LocalVm& vm, void* argument) {
  kvm_userspace_memory_region old_style;
  if (!CopyIn(argument, old_style)) return Failure(EFAULT);
  if ((old_style.flags & kGuestMemfd) != 0) return Failure(EINVAL);
  Region region = {};
  static_assert(offsetof(Region, userspace_addr) ==
                offsetof(kvm_userspace_memory_region, userspace_addr));
  std::memcpy(&region, &old_style, sizeof(old_style));
  return SetRegion(options, vm, region);
}

}  // namespace rehome::sim
