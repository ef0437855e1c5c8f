// SPDX-License-Identifier: Apache-2.0
//
// The memory of a VM as tables: slots, private ranges, guest_memfd files. Plain shared memory with
// the pure rules about it; the ioctls are in memslots.h, guest_memfd.h and move.h.
#ifndef REHOME_KVMGLUE_SIM_MEMORY_TABLES_H_
#define REHOME_KVMGLUE_SIM_MEMORY_TABLES_H_

#include <cstdint>
#include <span>
#include <vector>

namespace rehome::sim {

inline constexpr uint32_t kAddressSpaces = 2;  // normal, SMM
// KVM_CAP_NR_MEMSLOTS. The kernel has 32764 per address space; a table of that size would be copied
// with every change, and the project bounds a layout at 128.
inline constexpr uint32_t kMaxSlots = 256;
// Private ranges with a shared hole between them. A guest that converts every other page of 32 MiB
// fills it; the ioctl then fails with ENOMEM, as it may in the kernel.
inline constexpr uint32_t kMaxAttributeRanges = 4096;
// Files that KVM_CREATE_GUEST_MEMFD and LINK may make in the life of one VM; then ENFILE.
inline constexpr uint32_t kMaxGuestMemfdFiles = 512;

struct Slot {
  uint64_t gpa;
  uint64_t size;  // 0: no such slot
  uint64_t userspace_addr;
  uint64_t guest_memfd_offset;
  uint32_t flags;       // KVM_MEM_*
  uint32_t file_index;  // into VmObject::files, with KVM_MEM_GUEST_MEMFD
};

struct SlotTable {
  Slot slots[kAddressSpaces][kMaxSlots];
};

// One struct file of a guest_memfd.
struct GuestMemfdFile {
  uint64_t device, inode;
  uint64_t size;
  uint32_t used;
  uint32_t mappable;
  uint32_t gated;
  uint32_t woken_by;  // number of the move that opens it (VmObject::committed); 0: none yet
};

// Used slots of one address space in the order of their gpa.
std::vector<Slot> SortedSlots(const SlotTable& table, uint32_t address_space);

struct PrivateRange {
  uint64_t start, end;  // [start, end), bytes
};

// Where KVM_MEMORY_ATTRIBUTE_PRIVATE is set: sorted, not adjacent, not overlapping.
struct AttributeTable {
  uint32_t count;
  PrivateRange ranges[kMaxAttributeRanges];

  // Copies what is used: the table is large and nearly empty.
  AttributeTable& operator=(const AttributeTable& other);
  // REQUIRES: at most kMaxAttributeRanges.
  void Assign(std::span<const PrivateRange> all);
  std::span<const PrivateRange> used() const { return {ranges, count}; }
};

// The ranges after KVM_SET_MEMORY_ATTRIBUTES of `change`.
std::vector<PrivateRange> WithAttribute(std::span<const PrivateRange> ranges, PrivateRange change,
                                        bool is_private);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_MEMORY_TABLES_H_
