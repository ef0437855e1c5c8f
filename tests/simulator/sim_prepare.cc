// SPDX-License-Identifier: Apache-2.0
//
// Before the blackout, as daemon/brownout_effects.cc and target_build.cc.
#include <utility>

#include "tests/simulator/sim_context.h"

namespace rehome::sim {
namespace {

Outcome Refused(const char* reason, Migration record) {
  return Answer(Event::kRefused, reason, std::move(record));
}

}  // namespace

bool StartTarget(SimContext& context, Migration& record) {
  World& world = context.world;
  if (context.daemon.dead || context.GoesWrong()) return false;
  context.target = world.LaunchTarget(context.source->guest, record.id);
  record.target = context.target->identity;
  context.target->connected_at = world.now() + world.random.Between(1, 50 * kMillisecond);
  if (context.GoesWrong()) world.Hang(*context.target, 0);
  return context.Wait(kLaunchTimeout, [&] { return world.Answers(*context.target); });
}

std::shared_ptr<Block> BuildInTarget(SimContext& context, const Migration& record) {
  if (!context.Ask(context.target) || context.GoesWrong()) return nullptr;
  auto block = std::make_shared<Block>();
  block->migration = record.id;
  block->moves = context.world.guests[context.target->guest].moves;
  block->policy = record.fence_policy;
  block->claim_timeout = context.ClaimTimeout(record);
  block->resolve_timeout = kResolveTimeout;
  TargetSide& side = context.target->target;
  side.at = TargetAt::kPrepared;
  side.block = block;
  side.can_signal = !context.GoesWrong();
  return block;
}

Outcome SimPreflight(SimContext& context, Migration record) {
  Process* source = context.source;
  if (!context.Ask(source)) return Refused("AGENT_TIMEOUT", std::move(record));
  if (source->source.at != SourceAt::kIdle) return Refused("AGENT_REFUSED_BUSY", std::move(record));
  const bool unsupported = context.world.guests[source->guest].unsupported;
  if (unsupported || context.GoesWrong()) return Refused("LINK_UNSUPPORTED", std::move(record));
  source->source.at = SourceAt::kHeld;
  source->source.migration = record.id;
  const Guest& guest = context.world.guests[source->guest];
  record.strategy = guest.moves ? Strategy::kLinkMove : Strategy::kLink;
  record.fence_policy = guest.policy;
  record.memory_inodes = {{1, source->guest + 1}};
  return Answer(Event::kPreflightPassed, std::move(record));
}

Outcome SimLaunch(SimContext& context, Migration record) {
  if (!StartTarget(context, record)) return Refused("LAUNCH_FAILED", std::move(record));
  return Answer(Event::kTargetConnected, std::move(record));
}

Outcome SimPrepare(SimContext& context, Migration record) {
  std::shared_ptr<Block> block = BuildInTarget(context, record);
  if (block == nullptr) return Refused("LAYOUT_MISMATCH", std::move(record));
  SimEscrow& escrow = context.escrow;
  escrow.block = std::move(block);
  escrow.memory = true;
  escrow.source_vm = context.source->kvm;
  escrow.target_vm = context.target->kvm;
  return Answer(Event::kTargetPrepared, std::move(record));
}

Outcome SimArm(SimContext& context, Migration record) {
  const SimEscrow& escrow = context.escrow;
  if (!context.Ask(context.target)) return Refused("AGENT_GONE", std::move(record));
  TargetSide& target = context.target->target;
  if (target.at != TargetAt::kPrepared) return Refused("AGENT_REFUSED", std::move(record));
  target.at = TargetAt::kWaiting;
  target.source = context.source;
  target.move_from = context.source->kvm;
  if (!context.Ask(context.source)) return Refused("AGENT_GONE", std::move(record));
  SourceSide& source = context.source->source;
  const bool held = source.at == SourceAt::kHeld && source.migration == record.id;
  if (!held || context.GoesWrong()) return Refused("AGENT_REFUSED", std::move(record));
  source.at = SourceAt::kArmed;
  source.block = escrow.block;
  source.target = context.target;
  if (context.daemon.store != nullptr) {
    context.Pause(300);
    if (context.daemon.dead) return Refused("", std::move(record));
    (*context.daemon.store)[record.id] = {
        escrow.block, nullptr, escrow.source_vm, escrow.target_vm, {}};
  }
  record.armed_ns = context.world.now() * 1000;
  return Answer(Event::kArmed, std::move(record));
}

}  // namespace rehome::sim
