// SPDX-License-Identifier: Apache-2.0
//
// The target's agent: vmm/agent/target.c and target_run.c, one atomic step at a time.
#include "absl/strings/str_cat.h"
#include "tests/simulator/world.h"

namespace rehome::sim {
namespace {

constexpr Micros kStartMargin = kSecond;   // REHOME_START_MARGIN_MS
constexpr Micros kGiveUp = 120 * kSecond;  // REHOME_EXIT_TIMEOUT_MS

void TurnOff(TargetSide& target) {
  if (target.block != nullptr) target.block->Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
  target.at = TargetAt::kLeaves;
}

void Await(World& world, TargetSide& target) {
  Block& block = *target.block;
  if (block.ready == Ready::kCancelled || block.verdict == REHOME_VERDICT_ABORTED) {
    target.at = TargetAt::kLeaves;
  } else if (block.ready == Ready::kComplete) {
    const bool won = block.Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED);
    target.at = won ? TargetAt::kClaimed : TargetAt::kLeaves;
    if (won) block.claimed_at = world.now();
  } else if (!target.source->alive && block.fence != REHOME_FENCE_STATE_PROVEN) {
    TurnOff(target);  // but in a rescue it is not the source who announces
  } else if (target.give_up_at > 0 && world.now() >= target.give_up_at) {
    TurnOff(target);
  }
}

// To a dead source nothing is given back.
void Refuse(TargetSide& target) {
  target.refused = true;
  const bool source_dead =
      !target.source->alive || target.block->fence == REHOME_FENCE_STATE_PROVEN;
  target.at = source_dead ? TargetAt::kLeaves : TargetAt::kRefuses;
}

void GiveBack(World& world, TargetSide& target) {
  if (!target.source->alive) world.guests[target.source->guest].refused_without_source = true;
  target.block->Swap(REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
  target.at = TargetAt::kLeaves;
}

void Claimed(World& world, TargetSide& target) {
  if (world.faults.refuse_one_in > 0 && world.random.OneIn(world.faults.refuse_one_in)) {
    Refuse(target);
    return;
  }
  if (!target.block->moves) {
    target.at = TargetAt::kMoved;
    return;
  }
  const bool may = target.block->verdict == REHOME_VERDICT_CLAIMED &&
                   target.block->fence != REHOME_FENCE_STATE_TARGET_CONDEMNED;
  target.at = may ? TargetAt::kMayMove : TargetAt::kLeaves;
}

void Move(World& world, Process& process) {
  TargetSide& target = process.target;
  KvmVm& from = *target.move_from;
  if (!from.has_context || from.dead) {
    Refuse(target);
    return;
  }
  from.has_context = false;
  from.dead = true;
  process.kvm->has_context = true;
  target.at = TargetAt::kMoved;
  world.Log(absl::StrCat("p", process.number, " moved the context"));
}

void PassFence(World& world, TargetSide& target) {
  Block& block = *target.block;
  if (block.policy != FencePolicy::kBeforeResume) {
    target.at = block.Condemn(REHOME_SIDE_SOURCE) ? TargetAt::kFenced : TargetAt::kLeaves;
  } else if (block.fence == REHOME_FENCE_STATE_PROVEN) {
    target.at = TargetAt::kFenced;
  } else if (block.fence == REHOME_FENCE_STATE_TARGET_CONDEMNED) {
    target.at = TargetAt::kLeaves;
  } else if (world.now() >= block.claimed_at + block.resolve_timeout / 2) {
    target.at = TargetAt::kFencing;
  }
}

void BeginFence(World& world, TargetSide& target) {
  target.proving_until = world.now() + kGiveUp;
  if (target.can_signal) {
    const bool granted = target.block->Condemn(REHOME_SIDE_SOURCE);
    target.at = granted ? TargetAt::kReadsAgain : TargetAt::kLeaves;
  } else {
    const bool leaves = target.block->Condemn(REHOME_SIDE_TARGET);
    target.at = leaves ? TargetAt::kLeaves : TargetAt::kProving;
  }
}

void Prove(World& world, TargetSide& target) {
  if (!target.source->alive) target.block->SetProven();
  if (target.block->fence == REHOME_FENCE_STATE_PROVEN) {
    target.at = TargetAt::kFenced;
  } else if (world.now() >= target.proving_until) {
    target.at = TargetAt::kLeaves;
  }
}

void Run(World& world, Process& process) {
  TargetSide& target = process.target;
  if (target.first_run) return;
  target.first_run = true;
  target.block.reset();
  target.move_from.reset();
  world.Register(process);
}

void LoseConnection(World& world, TargetSide& target) {
  if (target.at == TargetAt::kLaunched || target.at == TargetAt::kPrepared) {
    TurnOff(target);
  } else if (target.at == TargetAt::kWaiting && target.give_up_at == 0) {
    target.give_up_at = world.now() + target.block->claim_timeout + kStartMargin;
  }
}

// The library's own thread sees it sooner or later, whatever the vCPU threads do.
bool SeesSourceDead(World& world, TargetSide& target) {
  const bool takes_over = target.at >= TargetAt::kWaiting && target.at < TargetAt::kMayRun;
  if (!takes_over || target.source->alive) return false;
  if (target.block->fence == REHOME_FENCE_STATE_PROVEN || world.random.OneIn(2)) return false;
  target.block->SetProven();
  if (target.block->ready != Ready::kComplete) TurnOff(target);
  return true;
}

}  // namespace

void StepTarget(World& world, Process& process) {
  TargetSide& target = process.target;
  if (process.connection_lost) {
    process.connection_lost = false;
    LoseConnection(world, target);
    return;
  }
  if (SeesSourceDead(world, target)) return;
  const TargetAt before = target.at;
  switch (target.at) {
    case TargetAt::kNone:
    case TargetAt::kLaunched:
    case TargetAt::kPrepared:
      return;
    case TargetAt::kWaiting:
      Await(world, target);
      break;
    case TargetAt::kClaimed:
      Claimed(world, target);
      break;
    case TargetAt::kRefuses:
      GiveBack(world, target);
      break;
    case TargetAt::kMayMove:
      Move(world, process);
      break;
    case TargetAt::kMoved: {
      process.progress = target.block->saved;
      const bool won = target.block->Swap(REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED);
      target.at = won ? TargetAt::kCommitted : TargetAt::kLeaves;
      break;
    }
    case TargetAt::kCommitted:
      PassFence(world, target);
      break;
    case TargetAt::kFencing:
      BeginFence(world, target);
      break;
    case TargetAt::kReadsAgain: {
      const bool wanted = target.block->verdict == REHOME_VERDICT_COMMITTED;
      target.at = wanted ? TargetAt::kKills : TargetAt::kLeaves;
      break;
    }
    case TargetAt::kKills:
      world.Kill(*target.source);
      target.at = TargetAt::kProving;
      break;
    case TargetAt::kProving:
      Prove(world, target);
      break;
    case TargetAt::kFenced: {
      const bool won = target.block->Swap(REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING);
      target.at = won ? TargetAt::kMayRun : TargetAt::kLeaves;
      break;
    }
    case TargetAt::kMayRun:
      world.StartGuest(process);
      target.at = TargetAt::kRuns;
      break;
    case TargetAt::kRuns:
      Run(world, process);
      break;
    case TargetAt::kLeaves:
      world.Exit(process);
      return;
  }
  if (target.at != before) {
    world.Log(absl::StrCat("p", process.number, " target is ", NameOf(target.at)));
  }
}

bool IsCritical(const Process& process) {
  const bool source = process.source.start_pending || (process.source.at >= SourceAt::kPausing &&
                                                       process.source.at < SourceAt::kHandedOver);
  const bool target = process.target.at >= TargetAt::kWaiting &&
                      !(process.target.at == TargetAt::kRuns && process.target.first_run);
  return source || target;
}

const char* NameOf(SourceAt at) {
  static constexpr const char* kNames[] = {"idle",        "held",       "armed",      "pausing",
                                           "saving",      "watching",   "condemning", "killing",
                                           "taking back", "handed over"};
  return kNames[static_cast<size_t>(at)];
}

const char* NameOf(TargetAt at) {
  static constexpr const char* kNames[] = {
      "none",          "launched", "prepared",  "waiting",          "CLAIMED", "refusing",
      "about to MOVE", "moved",    "COMMITTED", "fencing",          "reading", "killing",
      "proving",       "fenced",   "RUNNING",   "in its first run", "leaving"};
  return kNames[static_cast<size_t>(at)];
}

}  // namespace rehome::sim
