// SPDX-License-Identifier: Apache-2.0
//
// What the vCPUs of a VM see: an immutable picture of its slots, attributes and mappings, made by
// the process that owns the VM whenever it changes one of them. vCPUs translate through it without
// a lock.
#ifndef REHOME_KVMGLUE_SIM_MEMORY_VIEW_H_
#define REHOME_KVMGLUE_SIM_MEMORY_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kvmglue/sim/guest_memory.h"
#include "kvmglue/sim/memory_tables.h"
#include "kvmglue/sim/simulated_cpu.h"

namespace rehome::sim {

struct ViewSlot {
  uint64_t gpa = 0;
  uint64_t size = 0;
  std::byte* shared = nullptr;  // userspace_addr
  bool read_only = false;
  // Of slots with KVM_MEM_GUEST_MEMFD:
  std::shared_ptr<GuestMemory> memory;
  uint64_t offset = 0;
  uint32_t file_index = 0;
  bool file_usable = false;  // open somewhere, and awake
  bool file_only = false;    // shared accesses go to the guest_memfd too (KVM_MEMSLOT_GMEM_ONLY)
};

enum class TranslationFault {
  kNone,
  kNoSlot,       // KVM would emulate MMIO
  kMemoryFault,  // KVM_EXIT_MEMORY_FAULT
};

struct Translation {
  std::byte* host = nullptr;
  TranslationFault fault = TranslationFault::kNone;
  uint64_t fault_gpa = 0;  // page-aligned
  bool fault_is_private = false;
  // The slot, if `host` points into its userspace_addr, which nobody has checked.
  const ViewSlot* shared_slot = nullptr;
};

struct MemoryView {
  uint64_t version = 0;
  std::vector<ViewSlot> slots;  // address space 0, by gpa
  std::vector<ViewSlot>
      smm_slots;  // address space 1: steps run outside SMM, so only their mappings count
  std::vector<PrivateRange> private_ranges;

  // The host address of [gpa, gpa + length). The range must lie in one slot and be wholly private
  // or wholly shared; the first byte for which that fails is what faults.
  Translation Translate(uint64_t gpa, uint64_t length, SimAccess access) const;
};

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_MEMORY_VIEW_H_
