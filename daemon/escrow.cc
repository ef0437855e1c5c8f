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

void Escrow::CloseMemory() {
  source.reset();
  target.reset();
  block.reset();
}

}  // namespace rehome
