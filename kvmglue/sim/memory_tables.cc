// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_tables.h"

#include <algorithm>

namespace rehome::sim {

std::vector<Slot> SortedSlots(const SlotTable& table, uint32_t address_space) {
  std::vector<Slot> used;
  for (const Slot& slot : table.slots[address_space]) {
    if (slot.size != 0) used.push_back(slot);
  }
  std::sort(used.begin(), used.end(), [](const Slot& a, const Slot& b) { return a.gpa < b.gpa; });
  return used;
}

AttributeTable& AttributeTable::operator=(const AttributeTable& other) {
  if (this != &other) Assign(other.used());
  return *this;
}

void AttributeTable::Assign(std::span<const PrivateRange> all) {
  std::copy(all.begin(), all.end(), ranges);
  count = static_cast<uint32_t>(all.size());
}

std::vector<PrivateRange> WithAttribute(std::span<const PrivateRange> ranges, PrivateRange change,
                                        bool is_private) {
  std::vector<PrivateRange> pieces;
  for (const PrivateRange& range : ranges) {
    pieces.push_back({range.start, std::min(range.end, change.start)});
    pieces.push_back({std::max(range.start, change.end), range.end});
  }
  if (is_private) pieces.push_back(change);
  std::erase_if(pieces, [](const PrivateRange& piece) { return piece.start >= piece.end; });
  std::sort(pieces.begin(), pieces.end(),
            [](const PrivateRange& a, const PrivateRange& b) { return a.start < b.start; });

  std::vector<PrivateRange> joined;
  for (const PrivateRange& piece : pieces) {
    if (!joined.empty() && joined.back().end == piece.start) {
      joined.back().end = piece.end;
    } else {
      joined.push_back(piece);
    }
  }
  return joined;
}

}  // namespace rehome::sim
