// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/local_vm.h"

#include <cerrno>
#include <thread>
#include <utility>

#include "kvmglue/memory_layout.h"

namespace rehome::sim {

LocalVm::LocalVm(VmMapping mapping)
    : mapping_(std::move(mapping)), view_(std::make_shared<MemoryView>()) {}

std::shared_ptr<const MemoryView> LocalVm::view() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return view_;
}

void LocalVm::UpdateView(std::shared_ptr<GuestMemory> added) {
  auto next = std::make_shared<MemoryView>();
  for (const Slot& slot : SortedSlots(object().slots.Get(), /*address_space=*/0)) {
    next->slots.push_back(MakeSlot(slot, added));
  }
  // The second address space needs no view (steps run outside SMM), but its mappings must stay.
  for (const Slot& slot : SortedSlots(object().slots.Get(), /*address_space=*/1)) {
    next->smm_slots.push_back(MakeSlot(slot, added));
  }
  const auto ranges = object().attributes.Get().used();
  next->private_ranges.assign(ranges.begin(), ranges.end());

  std::weak_ptr<const MemoryView> old;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    old = view_;
    next->version = view_->version + 1;
    view_ = std::move(next);
  }
  // Bounded by the length of a step, which is short by contract (simulated_cpu.h).
  while (!old.expired()) std::this_thread::yield();
}

void LocalVm::NoticeClosedFiles() {
  {
    const std::shared_ptr<const MemoryView> current = view();
    bool changed = false;
    for (const ViewSlot& slot : current->slots) {
      if (slot.memory != nullptr && IsUsable(*slot.memory, slot.file_index) != slot.file_usable) {
        changed = true;
      }
    }
    if (!changed) return;
  }
  std::lock_guard<RobustMutex> guard(object().memory_lock);
  UpdateView();
}

std::shared_ptr<GuestMemory> LocalVm::FindMemory(const InodeId& id) const {
  const std::shared_ptr<const MemoryView> current = view();
  for (const auto* slots : {&current->slots, &current->smm_slots}) {
    for (const ViewSlot& slot : *slots) {
      if (slot.memory != nullptr && slot.memory->id() == id) return slot.memory;
    }
  }
  return nullptr;
}

ViewSlot LocalVm::MakeSlot(const Slot& slot, const std::shared_ptr<GuestMemory>& added) const {
  ViewSlot made;
  made.gpa = slot.gpa;
  made.size = slot.size;
  made.shared = reinterpret_cast<std::byte*>(slot.userspace_addr);
  made.read_only = (slot.flags & kMemslotReadOnly) != 0;
  if ((slot.flags & kMemslotGuestMemfd) == 0) return made;

  const GuestMemfdFile& file = object().files[slot.file_index];
  const InodeId id = {file.device, file.inode};
  made.memory = added != nullptr && added->id() == id ? added : FindMemory(id);
  made.offset = slot.guest_memfd_offset;
  made.file_index = slot.file_index;
  made.file_usable = made.memory != nullptr && IsUsable(*made.memory, slot.file_index);
  made.file_only = file.mappable != 0;
  return made;
}

bool LocalVm::IsUsable(const GuestMemory& memory, uint32_t file_index) const {
  return object().IsAwake(object().files[file_index]) && memory.IsFileOpen(object().id, file_index);
}

SysResult VmTable::Add(std::shared_ptr<LocalVm> vm) {
  DropClosed();
  std::lock_guard<std::mutex> guard(mutex_);
  if (vms_.size() >= kMaxVms) return {-1, ENOMEM};
  const uint64_t id = vm->object().id;
  vms_[id] = std::move(vm);
  return {0, 0};
}

std::shared_ptr<LocalVm> VmTable::Find(uint64_t id) const {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto found = vms_.find(id);
  return found == vms_.end() ? nullptr : found->second;
}

void VmTable::DropClosed() {
  std::lock_guard<std::mutex> guard(mutex_);
  std::erase_if(vms_, [](const auto& entry) { return !entry.second->mapping().IsOpenAnywhere(); });
}

size_t VmTable::size() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return vms_.size();
}

}  // namespace rehome::sim
