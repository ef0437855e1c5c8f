// SPDX-License-Identifier: Apache-2.0
//
// What one process keeps of the VMs that it created: a mapping of each VM object and of the guest
// memory bound to it. KVM accepts ioctls only from the creator, so nobody else needs any of it.
#ifndef REHOME_KVMGLUE_SIM_LOCAL_VM_H_
#define REHOME_KVMGLUE_SIM_LOCAL_VM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "kvmglue/sim/guest_memory.h"
#include "kvmglue/sim/memory_view.h"
#include "kvmglue/sim/vm_object.h"
#include "kvmglue/sys_result.h"

namespace rehome::sim {

// Thread-safe.
class LocalVm {
 public:
  explicit LocalVm(VmMapping mapping);

  VmObject& object() const { return mapping_.object(); }
  const VmMapping& mapping() const { return mapping_; }

  // The picture that vCPUs run on. Do not hold it while waiting for anything: UpdateView() waits
  // until nobody uses the old one.
  std::shared_ptr<const MemoryView> view() const;

  // Makes a new view from the tables. Mappings that no slot uses any more are dropped; `added` is
  // the mapping for a slot that is new. Returns when no step is under way on the old view, so the
  // caller may unmap userspace memory of a deleted slot. REQUIRES: memory_lock is held, no view is.
  void UpdateView(std::shared_ptr<GuestMemory> added = nullptr);

  // UpdateView() if a guest_memfd of the current view was closed everywhere (or is open again).
  void NoticeClosedFiles();

  // The mapping of an inode in the current view; nullptr if nothing of it is bound.
  std::shared_ptr<GuestMemory> FindMemory(const InodeId& id) const;

 private:
  ViewSlot MakeSlot(const Slot& slot, const std::shared_ptr<GuestMemory>& added) const;
  bool IsUsable(const GuestMemory& memory, uint32_t file_index) const;

  VmMapping mapping_;
  mutable std::mutex mutex_;  // guards view_, for an instant at a time
  std::shared_ptr<const MemoryView> view_;
};

// VMs of this process by id. Nobody tells it when a VM fd is closed: a VM whose VM fd and vCPU fds
// are closed everywhere is found by its marks (file_tag.h) when the next VM is created, or /dev/kvm
// is opened, and dropped with its mappings. Thread-safe.
class VmTable {
 public:
  // Each VM costs a process one fd and some 4 MiB of address space, and one fd and one mapping per
  // bound guest_memfd.
  static constexpr size_t kMaxVms = 256;

  // ENOMEM if there are kMaxVms open VMs.
  SysResult Add(std::shared_ptr<LocalVm> vm);
  std::shared_ptr<LocalVm> Find(uint64_t id) const;
  void DropClosed();
  size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<LocalVm>> vms_;
};

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_LOCAL_VM_H_
