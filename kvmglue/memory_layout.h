// SPDX-License-Identifier: Apache-2.0
//
// The memslots of a VM, as both VMMs report them and as the daemon compares them. What counts is
// what the kernel compares at MOVE (RFC v2, kvm_gmem_params_match(): gfn, size, flags, inode,
// offset) and, beyond it, the second address space, which the RFC leaves out.
#ifndef REHOME_KVMGLUE_MEMORY_LAYOUT_H_
#define REHOME_KVMGLUE_MEMORY_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvmglue/fd.h"

namespace rehome {

// KVM_MEM_* bits as the kernel numbers them.
inline constexpr uint32_t kMemslotDirtyLog = 1u << 0;
inline constexpr uint32_t kMemslotReadOnly = 1u << 1;
inline constexpr uint32_t kMemslotGuestMemfd = 1u << 2;

// KVM on x86 has KVM_USER_MEM_SLOTS = 32764 per address space; nobody who can be migrated has more
// than a handful, and a bounded list keeps messages bounded.
inline constexpr size_t kMaxMemslots = 128;

struct Memslot {
  uint32_t slot = 0;           // not compared: a VMM may number them as it likes
  uint32_t address_space = 0;  // 0 normal, 1 SMM
  uint64_t gpa = 0;            // bytes
  uint64_t size_bytes = 0;
  uint32_t flags = 0;   // KVM_MEM_*
  InodeId inode;        // of the guest_memfd or memfd behind it
  uint64_t offset = 0;  // bytes into that inode
  uint64_t hva = 0;     // where that VMM maps it; 0 if not mapped; not compared
};

struct MemoryLayout {
  std::vector<Memslot> slots;

  // Sorts by (address_space, gpa): the canonical order of digest and comparison.
  void Canonicalize();
  // FNV-1a over the canonical slots (address space, gpa, size, flags without kMemslotGuestMemfd,
  // inode, offset), by rehome_layout_digest() of vmm/agent/layout.h, which agents use as well. It
  // shows that a layout *changed*; whether two layouts are equal is decided by CompareLayouts.
  uint64_t Digest() const;
  uint64_t TotalBytes() const;
};

// Well-formed: at least one slot, at most kMaxMemslots, address space 0 or 1, page-aligned and
// non-empty, no gpa overflow or overlap within an address space, no two slots over the same bytes
// of an inode within one address space, no dirty logging. INVALID_ARGUMENT with reason
// LAYOUT_INVALID, naming the slot.
absl::Status ValidateLayout(const MemoryLayout& layout);

enum class GuestMemfdFlag { kMustMatch, kIgnored };

// OK if both describe the same memory at the same place; else FAILED_PRECONDITION / LAYOUT_MISMATCH
// naming the first difference. With kIgnored (MAP strategies) KVM_MEM_GUEST_MEMFD is not compared:
// a mapped guest_memfd is an ordinary slot on the target.
absl::Status CompareLayouts(const MemoryLayout& source, const MemoryLayout& target,
                            GuestMemfdFlag guest_memfd_flag);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_MEMORY_LAYOUT_H_
