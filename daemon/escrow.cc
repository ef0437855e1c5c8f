// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow.h"

#include <algorithm>

#include "daemon/rescue_rules.h"

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
  const bool of_dead_target = std::any_of(context.begin(), context.end(),
                                          [](const ContextVm& vm) { return vm.vm.valid(); });
  const HeldParts held = {
      .block = block != nullptr,
      .memory = source.has_value() && !source->memory.empty(),
      .source_vm = source.has_value() && source->vm.valid(),
      .target_vm = of_dead_target || (target.has_value() && target->vm.valid())};
  return rehome::HoldsGuest(held, moves, source_vm_dead);
}

bool Escrow::KnowsVerdict(const Migration& record) const {
  return rehome::KnowsVerdict(record, block != nullptr, block_is_rescues);
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
