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

bool Escrow::HoldsGuest(bool moves, bool source_vm_dead) const {
  if (block == nullptr || !source.has_value() || source->memory.empty()) return false;
  if (!moves || (source->vm.valid() && !source_vm_dead)) return true;
  const bool of_dead_target = std::any_of(context.begin(), context.end(),
                                          [](const ContextVm& vm) { return vm.vm.valid(); });
  return of_dead_target || (target.has_value() && target->vm.valid());
}

bool Escrow::KnowsVerdict(const Migration& record) const {
  if (block == nullptr) return false;
  const Rescue& rescue = record.rescue;
  return rescue.attempts == 0 || record.target == rescue.dead_target || block_is_rescues;
}

PhaseTimes Escrow::Phases(uint64_t not_before_ns) const {
  if (block == nullptr) return {};
  PhaseTimes times = block->Phases(not_before_ns);
  if (saved == nullptr) return times;
  const PhaseTimes of_source = saved->Phases(not_before_ns);
  for (size_t i = 0; i <= REHOME_PHASE_STATE_SAVED; ++i) times[i] = of_source[i];
  return times;
}

void Escrow::CloseMemory() {
  source.reset();
  target.reset();
  block.reset();
  block_is_rescues = false;
  saved.reset();
  context.clear();
}

}  // namespace rehome
