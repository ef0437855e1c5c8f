// SPDX-License-Identifier: Apache-2.0
//
// What a daemon does about another one's migration, as daemon/recovery_effects.cc.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/rescue_rules.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

void TakeFromStore(SimContext& context, const Migration& record) {
  SimEscrow& escrow = context.escrow;
  escrow.store_was_empty =
      context.daemon.store == nullptr || !context.daemon.store->contains(record.id);
  if (escrow.store_was_empty) return;
  Stored stored = context.daemon.store->at(record.id);
  escrow.memory = true;
  escrow.block = stored.block;
  escrow.source_vm = stored.source_vm;
  if (stored.rescue_block != nullptr) {
    escrow.saved = std::exchange(escrow.block, stored.rescue_block);
    escrow.block_is_rescues = true;
    std::vector<std::shared_ptr<KvmVm>> vms = {nullptr, stored.target_vm};
    for (const auto& vm : stored.rescue_vms) {
      if (vm != nullptr) vms.push_back(vm);
    }
    stored.target_vm = vms.back();
    vms.pop_back();
    std::reverse(vms.begin(), vms.end());
    if (escrow.block->moves) escrow.context = std::move(vms);
  }
  escrow.target_vm = stored.target_vm;
}

void FindLinks(SimContext& context) {
  context.Wait(kRejoinTimeout, [&] {
    for (const Process* side : {context.source, context.target}) {
      if (!context.IsDead(side) && !context.world.Answers(*side)) return false;
    }
    return true;
  });
}

// In a rescue the source has an earlier block than the target: that with the saved state.
void PutHandedIn(SimContext& context, const Migration& record, const Process& side,
                 const std::shared_ptr<Block>& block) {
  SimEscrow& escrow = context.escrow;
  const bool is_target = &side == context.target;
  const bool needs_block = !KnowsVerdict(context.escrow, record);
  if (needs_block && is_target && record.rescue.attempts > 0) {
    if (block->moves) {
      if (escrow.target_vm != nullptr) escrow.context.push_back(escrow.target_vm);
      escrow.context.push_back(nullptr);  // the source's
    }
    escrow.target_vm = nullptr;
    escrow.saved = std::move(escrow.block);
    escrow.block_is_rescues = true;
  }
  if (needs_block) escrow.block = block;
  if (is_target) {
    if (escrow.target_vm == nullptr) escrow.target_vm = side.kvm;
  } else if (!escrow.memory) {
    escrow.memory = true;
    escrow.source_vm = side.kvm;
  }
}

HandInAnswer TakeFromAgents(SimContext& context, const Migration& record) {
  HandInAnswer of_source = HandInAnswer::kNone;
  for (const bool is_target : {false, true}) {
    const Process* side = is_target ? context.target : context.source;
    const SimEscrow& escrow = context.escrow;
    const bool described = is_target ? escrow.target_vm != nullptr : escrow.memory;
    if (KnowsVerdict(context.escrow, record) && described) continue;
    if (context.IsDead(side) || !context.world.Answers(*side)) continue;
    // Kept, because the process may drop it while the answer is under way.
    const std::shared_ptr<Block> block = is_target ? side->target.block : side->source.block;
    const bool exact = !context.world.guests[side->guest].old_agent;
    if (block == nullptr && !is_target && exact) of_source = HandInAnswer::kNothing;
    if (block == nullptr) continue;
    context.Pause(300);
    if (!context.daemon.dead) PutHandedIn(context, record, *side, block);
    if (!is_target) of_source = HandInAnswer::kHandedIn;
  }
  return of_source;
}

bool NothingIsLeft(const SimEscrow& escrow, HandInAnswer of_source) {
  const bool has_vm = escrow.source_vm != nullptr || escrow.target_vm != nullptr ||
                      std::any_of(escrow.context.begin(), escrow.context.end(),
                                  [](const std::shared_ptr<KvmVm>& vm) { return vm != nullptr; });
  return escrow.store_was_empty && of_source == HandInAnswer::kNothing && escrow.block == nullptr &&
         escrow.saved == nullptr && !has_vm;
}

}  // namespace

bool KnowsVerdict(const SimEscrow& escrow, const Migration& record) {
  return rehome::KnowsVerdict(record, escrow.block != nullptr, escrow.block_is_rescues);
}

void SimRebuild(SimContext& context, const Migration& record) {
  context.source = context.world.Find(record.source);
  context.target = record.target.pid == 0 ? nullptr : context.world.Find(record.target);
  context.handover_start = record.armed_ns / 1000;
  TakeFromStore(context, record);
  FindLinks(context);
  TakeFromAgents(context, record);
  const Process* target = context.target;
  if (record.owner == GuestOwner::kTarget && !context.IsDead(target) &&
      context.world.Answers(*target)) {
    context.daemon.vms->HandOver(record.request.vm_id, target->link);
  }
}

Outcome SimRecover(SimContext& context, Migration record) {
  FindLinks(context);
  record.fence.source = {};
  HandInAnswer of_source = HandInAnswer::kNone;
  if (!KnowsVerdict(context.escrow, record)) of_source = TakeFromAgents(context, record);
  Findings found;
  found.before_start = WasBeforeStart(record);
  found.source = context.LookAtSource(kAgentTimeout);
  record.fence.kernel_vm_dead |= found.source == SourceSight::kVmDead;
  found.target_runs_guest = context.target != nullptr && context.TargetSaysItRuns();
  found.target_dead = context.IsDead(context.target);
  context.Pause(50);
  if (KnowsVerdict(context.escrow, record)) {
    found.verdict = context.escrow.block->verdict;
  } else {
    found.moves = context.world.guests[context.source->guest].moves;
    found.target_on_record = record.target.pid != 0;
    found.nothing_is_left = NothingIsLeft(context.escrow, of_source);
  }
  const Event event = context.daemon.rules.event_of(found);
  context.world.Log(
      absl::StrCat("recover: ", EventName(event), ", verdict ", found.verdict.value_or(0)));
  const char* reason = event == Event::kSourceLost    ? "GUEST_LOST"
                       : event == Event::kUnreachable ? "OWNER_UNKNOWN"
                                                      : "";
  if (event == Event::kSourceLost && found.source != SourceSight::kDead) {
    record.fence.kernel_vm_dead = true;
    record.fence.source = record.source;
  }
  return Answer(event, reason, std::move(record));
}

}  // namespace rehome::sim
