// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow.h"

#include <algorithm>

namespace rehome {

std::vector<InodeId> Escrow::MemoryInodes() const {
  std::vector<InodeId> inodes;
  if (!source.has_value()) return inodes;
  for (const Memslot& slot : source->layout.slots) inodes.push_back(slot.inode);
  std::sort(inodes.begin(), inodes.end());
  inodes.erase(std::unique(inodes.begin(), inodes.end()), inodes.end());
  return inodes;
}

uint64_t Escrow::MemoryBytes() const {
  return source.has_value() ? source->layout.TotalBytes() : 0;
}

bool Escrow::HoldsGuest(bool moves) const {
  if (block == nullptr || !source.has_value() || source->memory.empty()) return false;
  return !moves || source->vm.valid() || (target.has_value() && target->vm.valid());
}

void Escrow::CloseMemory() {
  source.reset();
  target.reset();
  block.reset();
}

}  // namespace rehome
