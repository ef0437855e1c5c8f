// SPDX-License-Identifier: Apache-2.0
//
// What a daemon does about another one's migration, as daemon/recovery_effects.cc.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

void TakeFromStore(SimContext& context, const Migration& record) {
  if (context.daemon.store == nullptr) return;
  const auto found = context.daemon.store->find(record.id);
  if (found == context.daemon.store->end()) return;
  Stored stored = found->second;
  SimEscrow& escrow = context.escrow;
  escrow.memory = true;
  escrow.block = stored.block;
  escrow.source_vm = stored.source_vm;
  if (stored.rescue_block != nullptr) {
    escrow.saved = std::exchange(escrow.block, stored.rescue_block);
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

void TakeFromAgents(SimContext& context) {
  SimEscrow& escrow = context.escrow;
  const Process* source = context.source;
  if (!context.IsDead(source) && context.world.Answers(*source) && !escrow.memory &&
      source->source.block != nullptr) {
    escrow.memory = true;
    escrow.source_vm = source->kvm;
    if (escrow.block == nullptr) escrow.block = source->source.block;
  }
  context.Pause(300);
  const Process* target = context.target;
  if (!context.IsDead(target) && context.world.Answers(*target) &&
      target->target.block != nullptr) {
    if (escrow.target_vm == nullptr) escrow.target_vm = target->kvm;
    if (escrow.block == nullptr) escrow.block = target->target.block;
  }
}

// START is journalled before it is sent.
bool WasBeforeStart(const Migration& record) {
  return record.interrupted_step.has_value() && *record.interrupted_step <= Step::kArming;
}

}  // namespace

bool KnowsVerdict(const SimContext& context, const Migration& record) {
  if (context.escrow.block == nullptr) return false;
  const Rescue& rescue = record.rescue;
  return rescue.attempts == 0 || record.target == rescue.dead_target ||
         context.escrow.saved != nullptr;
}

void SimRebuild(SimContext& context, const Migration& record) {
  context.source = context.world.Find(record.source);
  context.target = record.target.pid == 0 ? nullptr : context.world.Find(record.target);
  context.handover_start = record.armed_ns / 1000;
  TakeFromStore(context, record);
  FindLinks(context);
  TakeFromAgents(context);
  const Process* target = context.target;
  if (record.owner == GuestOwner::kTarget && !context.IsDead(target) &&
      context.world.Answers(*target)) {
    context.daemon.vms->HandOver(record.request.vm_id, target->link);
  }
}

Outcome SimRecover(SimContext& context, Migration record) {
  FindLinks(context);
  if (context.escrow.block == nullptr) TakeFromAgents(context);
  Findings found;
  found.before_start = WasBeforeStart(record);
  found.source = context.LookAtSource(kAgentTimeout);
  found.target_runs_guest = context.target != nullptr && context.TargetSaysItRuns();
  found.target_dead = context.IsDead(context.target);
  context.Pause(50);
  if (KnowsVerdict(context, record)) found.verdict = context.escrow.block->verdict;
  const Event event = context.daemon.rules.event_of(found);
  context.world.Log(
      absl::StrCat("recover: ", EventName(event), ", verdict ", found.verdict.value_or(0)));
  const char* reason = event == Event::kSourceLost    ? "GUEST_LOST"
                       : event == Event::kUnreachable ? "OWNER_UNKNOWN"
                                                      : "";
  return Answer(event, reason, std::move(record));
}

}  // namespace rehome::sim
