// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_keeping.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/strategy.h"

namespace rehome {
namespace {

bool CanKeep(const EffectContext& context) { return context.dependencies.store->supported(); }

}  // namespace

absl::Status KeepEscrow(EffectContext& context, const Migration& record) {
  if (!CanKeep(context)) return absl::OkStatus();
  const Escrow& escrow = context.escrow;
  absl::StatusOr<UniqueFd> description = DescribeEscrow(*escrow.source, *escrow.target);
  if (!description.ok()) return description.status();
  return context.dependencies.store->Put(
      record.id,
      EscrowItems(*escrow.source, *escrow.target, escrow.block->fd(), description->borrow()));
}

absl::Status KeepRescue(EffectContext& context, const Migration& record) {
  if (!CanKeep(context)) return absl::OkStatus();
  const Escrow& escrow = context.escrow;
  const size_t number = std::min<size_t>(record.rescue.attempts, kMaxStoredRescueVms) - 1;
  std::vector<EscrowItem> items = {
      {kEscrowRescueBlock, escrow.block->fd()},
      {absl::StrCat(kEscrowRescueVmPrefix, number), escrow.target->vm.borrow()}};
  for (size_t i = 0; i < escrow.target->memory.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowRescueMemoryPrefix, number * REHOME_MAX_MEMORIES + i),
                     escrow.target->memory[i].borrow()});
  }
  return context.dependencies.store->Put(record.id, items);
}

absl::Status FillEscrow(RestoredEscrow restored, const Migration& record, Escrow& escrow) {
  absl::StatusOr<std::unique_ptr<HandoverBlock>> block =
      HandoverBlock::Adopt(std::move(restored.block), record.id);
  if (!block.ok()) return block.status();
  std::unique_ptr<HandoverBlock> saved;
  std::vector<ContextVm> vms;
  if (restored.rescue_block.valid()) {
    absl::StatusOr<std::unique_ptr<HandoverBlock>> rescue =
        HandoverBlock::Adopt(std::move(restored.rescue_block), record.id);
    if (!rescue.ok()) return rescue.status();
    saved = *std::exchange(block, std::move(rescue));
    // How far each came is not known any more, only which was built last; the kernel says which of
    // them has the context.
    vms.push_back({});
    vms.push_back({std::move(restored.target.vm), std::move(restored.target.memory)});
    for (ContextVm& vm : restored.rescue_vms) vms.push_back(std::move(vm));
    if (vms.back().vm.valid()) {
      restored.target.vm = std::move(vms.back().vm);
      restored.target.memory = std::move(vms.back().memory);
    }
    vms.pop_back();
    std::reverse(vms.begin(), vms.end());
    if (!HasMove(record.strategy)) vms.clear();
  }
  escrow.source = std::move(restored.source);
  escrow.target = std::move(restored.target);
  escrow.block = *std::move(block);
  escrow.block_is_rescues = saved != nullptr;
  escrow.saved = std::move(saved);
  escrow.context = std::move(vms);
  escrow.target_settled = false;
  return absl::OkStatus();
}

void DropEscrow(EffectContext& context, const Migration& record) {
  context.escrow.CloseMemory();
  context.dependencies.store->Remove(record.id).IgnoreError();
}

}  // namespace rehome
