// SPDX-License-Identifier: Apache-2.0
//
// The blackout, as daemon/handover_effects.cc and abort_effect.cc.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/rescue_rules.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

Micros Overdue(const SimContext& context, const Migration& record) {
  return context.handover_start + context.ClaimTimeout(record) + kResolveTimeout + kStuckMargin;
}

bool IsStarted(SimContext& context) {
  Process& source = *context.source;
  if (!source.alive || source.source.at != SourceAt::kArmed) return false;
  source.source.start_pending = true;
  context.Wait(kAgentTimeout, [&] { return !source.alive || !source.source.start_pending; });
  return source.alive && source.source.at >= SourceAt::kPausing;
}

void FenceBeforeResume(SimContext& context, Migration& record) {
  Block& block = *context.escrow.block;
  if (!context.target->alive || !block.Condemn(REHOME_SIDE_SOURCE)) return;
  context.Pause(5);
  if (context.daemon.dead || block.verdict == REHOME_VERDICT_ABORTED) return;
  if (!context.target->alive) return;
  context.world.Kill(*context.source);
  record.fence.kill_sent_ns = context.world.now() * 1000;
  if (!context.AwaitDeath(context.source, kResolveTimeout)) return;
  block.SetProven();
  record.fence.stopped_before_resume = true;
}

void FinishFence(SimContext& context) {
  Block& block = *context.escrow.block;
  if (block.fence != REHOME_FENCE_STATE_SOURCE_CONDEMNED) return;
  if (block.verdict == REHOME_VERDICT_ABORTED) return;
  context.world.Kill(*context.source);
  if (context.AwaitDeath(context.source, kResolveTimeout)) block.SetProven();
}

void CondemnAndKillTarget(SimContext& context) {
  Block& block = *context.escrow.block;
  if (!block.Condemn(REHOME_SIDE_TARGET)) return;
  context.Pause(5);
  if (context.daemon.dead || block.verdict == REHOME_VERDICT_RUNNING) return;
  context.world.Kill(*context.target);
}

Observation Look(SimContext& context, Migration& record) {
  Observation seen;
  seen.source = context.LookAtSource(kLookFor);
  record.fence.kernel_vm_dead |= seen.source == SourceSight::kVmDead;
  context.Pause(50);
  seen.target_dead = context.IsDead(context.target);
  context.Pause(50);
  const SimEscrow& escrow = context.escrow;
  seen.verdict = escrow.block->verdict;
  seen.state_saved = escrow.StateBlock()->ready == Ready::kComplete;
  seen.fence = escrow.block->fence;
  seen.moves = escrow.block->moves;
  seen.policy = record.fence_policy;
  seen.overdue = context.world.now() >= Overdue(context, record);
  const bool vm_dead = record.fence.kernel_vm_dead || seen.source == SourceSight::kVmDeadUnproven;
  seen.can_rescue = escrow.HoldsGuest(seen.moves, vm_dead) && KnowsVerdict(escrow, record);
  seen.source_was_out = WasOutBefore(record);
  return seen;
}

void Act(SimContext& context, Action action) {
  Block& block = *context.escrow.block;
  switch (action) {
    case Action::kRunning:
    case Action::kResumed:
    case Action::kLost:
    case Action::kStranded:
      return;
    case Action::kWait:
      context.Wait(kSlice, [&] {
        return block.verdict == REHOME_VERDICT_RUNNING || block.verdict == REHOME_VERDICT_ABORTED;
      });
      context.Pause(kMillisecond);
      return;
    case Action::kAbortOpen:
      block.Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
      return;
    case Action::kAbortCommitted:
      block.Swap(REHOME_VERDICT_COMMITTED, REHOME_VERDICT_ABORTED);
      return;
    case Action::kKillTarget:
      context.world.Kill(*context.target);
      return;
    case Action::kCondemnTarget:
      CondemnAndKillTarget(context);
      return;
    case Action::kFinishFence:
      FinishFence(context);
      return;
    case Action::kAnnounceProof:
      block.SetProven();
      return;
    case Action::kEndEmptySource:
      context.world.Kill(*context.source);
      return;
  }
}

// Empty: something is to be done first.
std::optional<Event> Settled(Action action) {
  switch (action) {
    case Action::kRunning:
      return Event::kVerdictRunning;
    case Action::kResumed:
      return Event::kSourceResumed;
    case Action::kLost:
      return Event::kSourceLost;
    case Action::kStranded:
      return Event::kStranded;
    case Action::kWait:
    case Action::kAbortOpen:
    case Action::kAbortCommitted:
    case Action::kKillTarget:
    case Action::kCondemnTarget:
    case Action::kFinishFence:
    case Action::kAnnounceProof:
    case Action::kEndEmptySource:
      return std::nullopt;
  }
  return std::nullopt;
}

std::string ReasonFor(Action action, const Observation& seen) {
  if (action == Action::kLost) return "GUEST_LOST";
  if (action == Action::kStranded) return seen.target_dead ? "TARGET_DIED" : "TARGET_HANGS";
  return "";
}

}  // namespace

Outcome SimHandOver(SimContext& context, Migration record, Interrupt& interrupt) {
  const std::shared_ptr<Block> kept = context.escrow.block;
  Block& block = *kept;
  context.handover_start = context.world.now();
  if (!IsStarted(context)) {
    if (context.daemon.dead) return Answer(Event::kStuck, std::move(record));
    const bool only_state = context.IsDead(context.source) && block.ready == Ready::kComplete;
    if (!only_state && block.Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED)) {
      return Answer(Event::kVerdictAborted, "START_FAILED", std::move(record));
    }
  }
  bool to_fence = record.fence_policy == FencePolicy::kBeforeResume;
  while (context.world.now() < Overdue(context, record) && !context.daemon.dead) {
    const uint32_t verdict = block.verdict;
    if (verdict == REHOME_VERDICT_RUNNING) return Answer(Event::kVerdictRunning, std::move(record));
    if (verdict == REHOME_VERDICT_ABORTED) {
      return Answer(Event::kVerdictAborted, "HANDOVER_ABORTED", std::move(record));
    }
    if (verdict != REHOME_VERDICT_OPEN && context.IsDead(context.target)) {
      return Answer(Event::kStuck, "TARGET_DIED", std::move(record));
    }
    if (verdict == REHOME_VERDICT_COMMITTED && to_fence) {
      to_fence = false;
      FenceBeforeResume(context, record);
    }
    const bool stateless = !context.IsDead(context.source) || block.ready != Ready::kComplete;
    if (interrupt.raised() && stateless &&
        block.Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED)) {
      return Answer(Event::kVerdictAborted, "INTERRUPTED", std::move(record));
    }
    if (context.IsDead(context.source) && block.ready == Ready::kNo &&
        block.Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED)) {
      return Answer(Event::kSourceLost, "SOURCE_DIED", std::move(record));
    }
    context.Wait(kSlice, [&] { return block.verdict != verdict; });
  }
  return Answer(Event::kStuck, "HANDOVER_STUCK", std::move(record));
}

Outcome SimAbort(SimContext& context, Migration record) {
  const Micros limit = std::max(context.world.now(), Overdue(context, record)) + kResolveTimeout +
                       kResumeTimeout + kExitTimeout;
  while (context.world.now() < limit) {
    const Observation seen = Look(context, record);
    if (context.daemon.dead) break;
    const Action action = context.daemon.rules.settle(seen);
    context.world.Log(absl::StrCat("settle: ", ActionName(action)));
    Act(context, action);
    if (const std::optional<Event> event = Settled(action); event.has_value()) {
      return Answer(*event, ReasonFor(action, seen), std::move(record));
    }
    context.Pause(200);
  }
  return Answer(Event::kUnreachable, "OWNER_UNKNOWN", std::move(record));
}

}  // namespace rehome::sim
