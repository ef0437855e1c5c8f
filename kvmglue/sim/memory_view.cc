// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_view.h"

#include <algorithm>

namespace rehome::sim {
namespace {

constexpr uint64_t kPageMask = 4095;

const ViewSlot* FindSlot(const std::vector<ViewSlot>& slots, uint64_t gpa) {
  for (const ViewSlot& slot : slots) {
    if (gpa >= slot.gpa && gpa - slot.gpa < slot.size) return &slot;
  }
  return nullptr;
}

Translation Fault(TranslationFault fault, uint64_t gpa, bool is_private) {
  return {.fault = fault, .fault_gpa = gpa & ~kPageMask, .fault_is_private = is_private};
}

// How far from `gpa` on its privacy stays as it is.
struct Privacy {
  bool is_private;
  uint64_t end;
};

Privacy PrivacyAt(const std::vector<PrivateRange>& ranges, uint64_t gpa) {
  for (const PrivateRange& range : ranges) {
    if (gpa < range.start) return {false, range.start};
    if (gpa < range.end) return {true, range.end};
  }
  return {false, UINT64_MAX};
}

}  // namespace

Translation MemoryView::Translate(uint64_t gpa, uint64_t length, SimAccess access) const {
  const ViewSlot* slot = FindSlot(slots, gpa);
  const Privacy privacy = PrivacyAt(private_ranges, gpa);
  if (slot == nullptr) {
    return Fault(privacy.is_private ? TranslationFault::kMemoryFault : TranslationFault::kNoSlot,
                 gpa, privacy.is_private);
  }
  const uint64_t offset = gpa - slot->gpa;
  if (length > slot->size - offset) {
    return Fault(TranslationFault::kNoSlot, slot->gpa + slot->size, false);
  }
  if (length > privacy.end - gpa) {
    return Fault(TranslationFault::kMemoryFault, privacy.end, !privacy.is_private);
  }
  if (privacy.is_private || slot->file_only) {
    if (!slot->file_usable) {
      return Fault(TranslationFault::kMemoryFault, gpa, privacy.is_private);
    }
    return {.host = slot->memory->base() + slot->offset + offset};
  }
  if (slot->read_only && access == SimAccess::kWrite) {
    return Fault(TranslationFault::kNoSlot, gpa, false);
  }
  return {.host = slot->shared + offset, .shared_slot = slot};
}

}  // namespace rehome::sim
