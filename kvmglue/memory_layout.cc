// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/memory_layout.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/layout.h"

namespace rehome {
namespace {

static_assert(kMaxMemslots == REHOME_MAX_SLOTS);

constexpr uint64_t kPageSize = 4096;  // bytes; KVM's unit on x86 whatever the host maps with
constexpr uint32_t kKnownFlags = kMemslotDirtyLog | kMemslotReadOnly | kMemslotGuestMemfd;

std::string Describe(const Memslot& slot) {
  return absl::StrFormat("memslot %u at gpa %#x (address space %u)", slot.slot, slot.gpa,
                         slot.address_space);
}

absl::Status Invalid(const Memslot& slot, std::string_view what) {
  return MakeStatus(
      absl::StatusCode::kInvalidArgument, "LAYOUT_INVALID",
      absl::StrCat(Describe(slot), ": ", absl::string_view(what.data(), what.size())));
}

bool Aligned(uint64_t value) { return value % kPageSize == 0; }

// start + size stays a number; the end itself may not be 2^64, since nobody could name it.
bool Overflows(uint64_t start, uint64_t size) {
  return size > std::numeric_limits<uint64_t>::max() - start;
}

// REQUIRES: neither range overflows.
bool RangesOverlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

absl::Status ValidateSlot(const Memslot& slot) {
  if (slot.address_space > 1) return Invalid(slot, "there are address spaces 0 and 1 only");
  if (slot.size_bytes == 0) return Invalid(slot, "size is 0");
  if (!Aligned(slot.gpa)) return Invalid(slot, "gpa is not page-aligned");
  if (!Aligned(slot.size_bytes)) return Invalid(slot, "size is not a multiple of the page size");
  if (!Aligned(slot.offset)) return Invalid(slot, "offset is not page-aligned");
  if (!Aligned(slot.hva)) return Invalid(slot, "hva is not page-aligned");
  if (Overflows(slot.gpa, slot.size_bytes)) return Invalid(slot, "gpa + size overflows");
  if (Overflows(slot.offset, slot.size_bytes)) return Invalid(slot, "offset + size overflows");
  if (Overflows(slot.hva, slot.size_bytes)) return Invalid(slot, "hva + size overflows");
  if ((slot.flags & kMemslotDirtyLog) != 0) {
    return Invalid(slot, "dirty logging is on, another migration may be under way");
  }
  if ((slot.flags & ~kKnownFlags) != 0) {
    return Invalid(slot, absl::StrFormat("unknown flags %#x", slot.flags & ~kKnownFlags));
  }
  return absl::OkStatus();
}

absl::Status ValidatePair(const Memslot& a, const Memslot& b) {
  if (a.address_space != b.address_space) return absl::OkStatus();
  if (RangesOverlap(a.gpa, a.size_bytes, b.gpa, b.size_bytes)) {
    return Invalid(b, absl::StrCat("overlaps ", Describe(a)));
  }
  if (a.inode == b.inode && RangesOverlap(a.offset, a.size_bytes, b.offset, b.size_bytes)) {
    return Invalid(b, absl::StrCat("maps bytes of the same file as ", Describe(a)));
  }
  return absl::OkStatus();
}

absl::Status Mismatch(std::string_view message) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "LAYOUT_MISMATCH", message);
}

absl::Status Differs(const Memslot& source, std::string_view field, uint64_t source_value,
                     uint64_t target_value) {
  return Mismatch(absl::StrFormat("source's %s: %s is %#x in the source and %#x in the target",
                                  Describe(source), absl::string_view(field.data(), field.size()),
                                  source_value, target_value));
}

absl::Status CompareSlots(const Memslot& source, const Memslot& target, uint32_t compared_flags) {
  const struct {
    std::string_view name;
    uint64_t source, target;
  } fields[] = {
      {"address space", source.address_space, target.address_space},
      {"gpa", source.gpa, target.gpa},
      {"size", source.size_bytes, target.size_bytes},
      {"flags", source.flags & compared_flags, target.flags & compared_flags},
      {"device of the file", source.inode.device, target.inode.device},
      {"inode of the file", source.inode.inode, target.inode.inode},
      {"offset in the file", source.offset, target.offset},
  };
  for (const auto& field : fields) {
    if (field.source != field.target) {
      return Differs(source, field.name, field.source, field.target);
    }
  }
  return absl::OkStatus();
}

}  // namespace

void MemoryLayout::Canonicalize() {
  std::stable_sort(slots.begin(), slots.end(), [](const Memslot& a, const Memslot& b) {
    return std::tie(a.address_space, a.gpa) < std::tie(b.address_space, b.gpa);
  });
}

uint64_t MemoryLayout::Digest() const {
  std::vector<rehome_memslot> wire;
  wire.reserve(slots.size());
  for (const Memslot& slot : slots) {
    wire.push_back({.slot = slot.slot,
                    .address_space = slot.address_space,
                    .gpa = slot.gpa,
                    .size = slot.size_bytes,
                    .flags = slot.flags,
                    .offset = slot.offset,
                    .hva = slot.hva,
                    .device = slot.inode.device,
                    .inode = slot.inode.inode});
  }
  return rehome_layout_digest(wire.data(), wire.size());
}

uint64_t MemoryLayout::TotalBytes() const {
  uint64_t total = 0;
  for (const Memslot& slot : slots) total += slot.size_bytes;
  return total;
}

absl::Status ValidateLayout(const MemoryLayout& layout) {
  const auto invalid = [](std::string_view message) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "LAYOUT_INVALID", message);
  };
  if (layout.slots.empty()) return invalid("no memslots");
  if (layout.slots.size() > kMaxMemslots) {
    return invalid(absl::StrCat(layout.slots.size(), " memslots, at most ", kMaxMemslots));
  }
  for (const Memslot& slot : layout.slots) {
    if (absl::Status status = ValidateSlot(slot); !status.ok()) return status;
  }
  for (size_t b = 1; b < layout.slots.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      absl::Status status = ValidatePair(layout.slots[a], layout.slots[b]);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status CompareLayouts(const MemoryLayout& source, const MemoryLayout& target,
                            GuestMemfdFlag guest_memfd_flag) {
  if (source.slots.size() != target.slots.size()) {
    return Mismatch(absl::StrCat("the source has ", source.slots.size(), " memslots, the target ",
                                 target.slots.size()));
  }
  MemoryLayout a = source;
  MemoryLayout b = target;
  a.Canonicalize();
  b.Canonicalize();
  const uint32_t compared_flags =
      guest_memfd_flag == GuestMemfdFlag::kMustMatch ? ~0u : ~kMemslotGuestMemfd;
  for (size_t i = 0; i < a.slots.size(); ++i) {
    absl::Status status = CompareSlots(a.slots[i], b.slots[i], compared_flags);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace rehome
