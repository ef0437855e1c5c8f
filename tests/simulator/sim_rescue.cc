// SPDX-License-Identifier: Apache-2.0
//
// A new target in the place of one that died with the guest in escrow, as daemon/rescue_effects.cc.
#include <algorithm>
#include <optional>
#include <utility>

#include "daemon/escrow_store.h"
#include "daemon/rescue_rules.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

enum class Closed : uint8_t { kRunning, kClosed, kFailed };

bool EndTarget(SimContext& context) {
  if (context.IsDead(context.target)) return true;
  context.world.Kill(*context.target);
  return context.AwaitDeath(context.target, kExitTimeout);
}

using KvmVmRef = std::shared_ptr<KvmVm>;

std::optional<KvmVmRef> TakeTargetVm(SimEscrow& escrow) {
  if (escrow.target_vm == nullptr) return std::nullopt;
  return std::move(escrow.target_vm);
}

Closed CloseHandover(SimContext& context) {
  SimEscrow& escrow = context.escrow;
  Block& block = *escrow.block;
  const uint32_t before = block.verdict;
  if (before == REHOME_VERDICT_RUNNING) return Closed::kRunning;
  if (before != REHOME_VERDICT_ABORTED) block.Swap(before, REHOME_VERDICT_ABORTED);
  if (!EndTarget(context)) return Closed::kFailed;
  if (block.moves && !escrow.target_settled) {
    const bool had_no_right = before == REHOME_VERDICT_OPEN;
    NoteWhereContextIs(escrow.context, before, had_no_right ? std::nullopt : TakeTargetVm(escrow));
  }
  escrow.target_settled = true;
  return Closed::kClosed;
}

void KeepRescue(SimContext& context, const Migration& record) {
  if (context.daemon.store == nullptr) return;
  Stored& stored = (*context.daemon.store)[record.id];
  const size_t number = std::min<size_t>(record.rescue.attempts, kMaxStoredRescueVms) - 1;
  if (stored.rescue_vms.size() <= number) stored.rescue_vms.resize(number + 1);
  stored.rescue_vms[number] = context.escrow.target_vm;
  stored.rescue_block = context.escrow.block;
}

bool BuildOne(SimContext& context, Migration& record) {
  if (!StartTarget(context, record)) return false;
  SimEscrow& escrow = context.escrow;
  std::shared_ptr<Block> block = BuildInTarget(context, record);
  if (block == nullptr || context.daemon.dead) return false;
  const bool at_source = escrow.context.empty() || escrow.context.front() == nullptr;
  record.rescue.context_from_target = !at_source;
  context.target->target.move_from = at_source ? escrow.source_vm : escrow.context.front();
  if (escrow.saved == nullptr) escrow.saved = std::move(escrow.block);
  escrow.block = std::move(block);
  escrow.block_is_rescues = true;
  escrow.target_vm = context.target->kvm;
  escrow.target_settled = false;
  KeepRescue(context, record);
  return true;
}

bool ArmWithState(SimContext& context) {
  SimEscrow& escrow = context.escrow;
  if (context.IsDead(context.source)) escrow.block->SetProven();
  if (!context.Ask(context.target)) return false;
  TargetSide& target = context.target->target;
  if (target.at != TargetAt::kPrepared) return false;
  target.at = TargetAt::kWaiting;
  target.source = context.source;
  context.Pause(100);
  if (context.daemon.dead || escrow.block->ready != Ready::kNo) return false;
  escrow.block->saved = escrow.saved->saved;
  escrow.block->ready = Ready::kComplete;
  return true;
}

// Whether the verdict became RUNNING; else `why` has what kept it from that.
bool AwaitRunning(SimContext& context, const Migration& record, std::string& why) {
  SimEscrow& escrow = context.escrow;
  Block& block = *escrow.block;
  why = "HANDOVER_STUCK";
  context.Wait(context.ClaimTimeout(record) + kResolveTimeout + kStuckMargin, [&] {
    return block.verdict == REHOME_VERDICT_RUNNING || block.verdict == REHOME_VERDICT_ABORTED ||
           context.IsDead(context.target);
  });
  if (block.verdict == REHOME_VERDICT_RUNNING) return true;
  const bool left = context.IsDead(context.target) && context.target->target.refused &&
                    block.verdict == REHOME_VERDICT_CLAIMED;
  if (left) {
    if (block.moves) NoteFailureOfClaimant(escrow.context, std::move(escrow.target_vm));
    escrow.target_settled = true;
    why = "TAKE_OVER_FAILED";
  } else if (block.verdict == REHOME_VERDICT_ABORTED) {
    if (block.claimed_at != 0) NoteRefusal(escrow.context);
    escrow.target_settled = true;
    why = "TAKE_OVER_FAILED";
  } else if (context.IsDead(context.target)) {
    why = "TARGET_DIED";
  }
  return false;
}

}  // namespace

Outcome SimBuildRescue(SimContext& context, Migration record) {
  const SimEscrow& escrow = context.escrow;
  const bool moves = context.world.guests[context.source->guest].moves;
  if (!escrow.HoldsGuest(moves, record.fence.kernel_vm_dead) ||
      escrow.StateBlock()->ready != Ready::kComplete) {
    return Answer(Event::kSourceLost, "GUEST_LOST", std::move(record));
  }
  const Closed closed = CloseHandover(context);
  if (closed == Closed::kRunning) return Answer(Event::kVerdictRunning, std::move(record));
  if (closed == Closed::kFailed) {
    return Answer(Event::kUnreachable, "TARGET_NOT_DISCARDED", std::move(record));
  }
  while (!context.daemon.dead) {
    if (BuildOne(context, record)) return Answer(Event::kTargetPrepared, std::move(record));
    record.target = record.rescue.dead_target;
    NoteFailedAttempt({"LAUNCH_FAILED", "as the seed has it"}, &record.rescue);
    if (!EndTarget(context)) {
      return Answer(Event::kUnreachable, "TARGET_NOT_DISCARDED", std::move(record));
    }
    if (record.rescue.attempts >= kMaxRescueAttempts) break;
    ++record.rescue.attempts;
  }
  return Answer(Event::kUnreachable, "RESCUE_FAILED", std::move(record));
}

Outcome SimHandOverToRescue(SimContext& context, Migration record) {
  std::string why = "AGENT_GONE";
  const bool armed = ArmWithState(context);
  if (context.daemon.dead) return Answer(Event::kStuck, std::move(record));
  if (!armed || !AwaitRunning(context, record, why)) {
    if (context.daemon.dead) return Answer(Event::kStuck, std::move(record));
    const Closed closed = CloseHandover(context);
    if (closed == Closed::kClosed) return Answer(Event::kStuck, why, std::move(record));
    if (closed == Closed::kFailed) return Answer(Event::kUnreachable, why, std::move(record));
  }
  return Answer(Event::kVerdictRunning, std::move(record));
}

}  // namespace rehome::sim
