// SPDX-License-Identifier: Apache-2.0
//
// After the blackout, as daemon/completion_effects.cc.
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/rescue_rules.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

// Silence proves nothing. False: the source's VM is alive.
bool WasMoved(SimContext& context, Migration& record) {
  const bool moves = context.world.guests[context.source->guest].moves;
  if (!moves || record.fence.kill_sent_ns != 0 || record.fence.kernel_vm_dead) return true;
  if (!context.Ask(context.source) || context.daemon.dead) return true;
  switch (context.LookAtSource(kAgentTimeout)) {
    case SourceSight::kVmDead:
      record.fence.kernel_vm_dead = true;
      return true;
    case SourceSight::kRunsGuest:
    case SourceSight::kPaused:
      return false;
    case SourceSight::kDead:
    case SourceSight::kSilent:
    case SourceSight::kVmDeadUnproven:
      return true;
  }
  return true;
}

bool EndSource(SimContext& context, Migration& record) {
  Process* source = context.source;
  if (!context.IsDead(source) && record.fence.kill_sent_ns == 0 && context.Ask(source)) {
    context.world.After(50, [&world = context.world, source] { world.Exit(*source); });
    context.AwaitDeath(source, kReleaseTimeout);
  }
  if (context.daemon.dead) return false;
  if (!context.IsDead(source)) {
    record.fence.kill_sent_ns = context.world.now() * 1000;
    context.world.Kill(*source);
  }
  record.fence.process_exited = context.AwaitDeath(source, kExitTimeout);
  record.fence.exited_ns = context.world.now() * 1000;
  return record.fence.process_exited;
}

bool HoldsMemory(const Process& process) {
  return process.alive &&
         (process.target.at == TargetAt::kNone || process.target.at >= TargetAt::kPrepared);
}

bool CheckHolders(SimContext& context, Migration& record) {
  InodeSearch found;
  found.inode = record.memory_inodes.front();
  for (const Process& process : context.world.processes) {
    if (process.guest != context.source->guest || !HoldsMemory(process)) continue;
    const bool target = process.identity == record.target;
    const HolderClass whose = target ? HolderClass::kTarget : HolderClass::kForeign;
    found.holders.push_back({process.identity.pid, "vmm", "fd", whose});
    if (!target) ++found.foreign;
  }
  record.fence.search.begun_ns = context.world.now() * 1000;
  record.fence.search.memory = {found};
  return found.foreign == 0 && found.HeldByTarget();
}

void EndHold(SimContext& context) {
  Process& process = *context.source;
  SourceSide& source = process.source;
  if (!context.Ask(&process) || context.daemon.dead) {
    process.connection_lost = !context.daemon.dead && process.alive;  // cut off
    return;
  }
  if (source.block != nullptr) source.block->Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
  if (source.at == SourceAt::kHeld || source.at == SourceAt::kArmed) source = SourceSide();
}

Outcome AwaitTargetsWord(SimContext& context, Migration record) {
  Process* target = context.target;
  if (record.restarts > 0 && context.TargetSaysItRuns()) {
    return Answer(Event::kFirstRunSeen, std::move(record));
  }
  context.Wait(kFirstRunTimeout, [&] {
    return context.IsDead(target) || (context.world.Answers(*target) && target->target.first_run);
  });
  if (!context.IsDead(target) && context.TargetSaysItRuns()) {
    return Answer(Event::kFirstRunSeen, std::move(record));
  }
  if (context.AwaitDeath(target, kReleaseTimeout)) {
    return Answer(Event::kTargetLost, "TARGET_DIED", std::move(record));
  }
  return Answer(Event::kUnreachable, "FIRST_RUN_NOT_SEEN", std::move(record));
}

}  // namespace

Outcome SimFirstRun(SimContext& context, Migration record) {
  Process* target = context.target;
  if (target != nullptr && context.world.Answers(*target)) {
    context.daemon.vms->HandOver(record.request.vm_id, target->link);
  }
  Outcome outcome = AwaitTargetsWord(context, std::move(record));
  if (WasMoved(context, outcome.update) || outcome.event == Event::kTargetLost) return outcome;
  return Answer(Event::kFenceIncomplete, "VM_NOT_MOVED", std::move(outcome.update));
}

Outcome SimFence(SimContext& context, Migration record) {
  record.fence.observer = {"rehomed", {1, 1, 1}};
  record.fence.source = record.source;
  const bool was_moved = WasMoved(context, record);
  const bool ended = EndSource(context, record) && CheckHolders(context, record);
  const bool target_lost = context.IsDead(context.target);
  context.DropEscrow(record.id);
  if (target_lost) return Answer(Event::kTargetLost, "TARGET_DIED", std::move(record));
  if (ended && was_moved) return Answer(Event::kFenceProven, std::move(record));
  const char* reason = was_moved ? "FENCE_TIMEOUT" : "VM_NOT_MOVED";
  return Answer(Event::kFenceIncomplete, reason, std::move(record));
}

Outcome SimDiscard(SimContext& context, Migration record) {
  if (EndsEmptySource(record)) {
    EndSource(context, record);
  } else if (!context.IsDead(context.source)) {
    EndHold(context);
  }
  if (context.daemon.dead) return Answer(Event::kFenceIncomplete, std::move(record));
  if (context.target != nullptr) context.world.Kill(*context.target);
  const bool dead = context.AwaitDeath(context.target, kExitTimeout);
  context.DropEscrow(record.id);
  if (dead) return Answer(Event::kTargetDiscarded, std::move(record));
  return Answer(Event::kFenceIncomplete, "TARGET_NOT_DISCARDED", std::move(record));
}

}  // namespace rehome::sim
