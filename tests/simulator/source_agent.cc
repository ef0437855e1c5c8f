// SPDX-License-Identifier: Apache-2.0
//
// The source's agent: vmm/agent/source.c and verdict.c, one atomic step at a time.
#include "absl/strings/str_cat.h"
#include "tests/simulator/world.h"

namespace rehome::sim {
namespace {

void Forget(SourceSide& source) {
  if (source.block != nullptr) source.block->Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
  source = SourceSide();
}

void BeginPause(World& world, Process& process) {
  SourceSide& source = process.source;
  source.start_pending = false;
  if (source.block->verdict != REHOME_VERDICT_OPEN || !source.target->alive) return;  // refused
  source.at = SourceAt::kPausing;
  source.claim_deadline = world.now() + source.block->claim_timeout;
  world.Log(absl::StrCat("p", process.number, " begins to pause"));
}

void SaveState(World& world, Process& process) {
  SourceSide& source = process.source;
  source.at = SourceAt::kWatching;
  const FaultPlan& faults = world.faults;
  const bool fails = faults.refuse_one_in > 0 && world.random.OneIn(faults.refuse_one_in);
  if (fails || world.now() >= source.claim_deadline) {
    source.abort_wanted = true;
    return;
  }
  source.block->saved = process.progress;
  if (source.block->ready == Ready::kNo) source.block->ready = Ready::kComplete;
  world.Log(absl::StrCat("p", process.number, " has saved the state"));
}

void Strand(World& world, Process& process) {
  if (!process.source.stranded) world.Log(absl::StrCat("p", process.number, " is stranded"));
  process.source.stranded = true;
}

void WatchOpen(World& world, Process& process) {
  SourceSide& source = process.source;
  const bool over = world.now() >= source.claim_deadline || !source.target->alive;
  if (!source.abort_wanted && !over) return;
  if (source.block->Swap(REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED)) {
    world.Log(absl::StrCat("p", process.number, " aborts"));
  }
}

void WatchAborted(World& world, Process& process) {
  if (process.kvm->dead) {
    Strand(world, process);
    return;
  }
  world.StartGuest(process);
  process.source = SourceSide();
}

void WatchClaimed(World& world, Process& process) {
  SourceSide& source = process.source;
  if (!source.target->alive) {
    source.at = SourceAt::kTakesBack;
    source.seen = source.block->verdict;
    return;
  }
  if (source.stranded) return;
  if (source.resolve_deadline == 0) {
    const Micros claimed = source.block->claimed_at;
    source.resolve_deadline = (claimed > 0 ? claimed : world.now()) + source.block->resolve_timeout;
  }
  if (source.killed || world.now() < source.resolve_deadline) return;
  if (source.block->moves && process.kvm->dead) {
    Strand(world, process);
  } else {
    source.at = SourceAt::kCondemns;
  }
}

void Watch(World& world, Process& process) {
  switch (static_cast<rehome_verdict>(process.source.block->verdict)) {
    case REHOME_VERDICT_OPEN:
      WatchOpen(world, process);
      return;
    case REHOME_VERDICT_ABORTED:
      WatchAborted(world, process);
      return;
    case REHOME_VERDICT_RUNNING:
      process.source.at = SourceAt::kHandedOver;
      return;
    case REHOME_VERDICT_CLAIMED:
    case REHOME_VERDICT_COMMITTED:
      WatchClaimed(world, process);
      return;
  }
}

void CondemnTarget(World& world, Process& process) {
  SourceSide& source = process.source;
  const bool granted = source.block->Condemn(REHOME_SIDE_TARGET);
  source.at = granted ? SourceAt::kKills : SourceAt::kWatching;
  if (!granted) Strand(world, process);
}

void TakeBack(World& world, Process& process) {
  SourceSide& source = process.source;
  source.at = SourceAt::kWatching;
  const uint32_t verdict = source.block->verdict;
  if (verdict != source.seen) return;
  if (process.kvm->dead || (verdict == REHOME_VERDICT_COMMITTED && source.block->moves)) {
    Strand(world, process);
    return;
  }
  if (!source.block->Swap(verdict, REHOME_VERDICT_ABORTED)) return;
  world.Log(absl::StrCat("p", process.number, " takes the guest back"));
}

}  // namespace

void StepSource(World& world, Process& process) {
  SourceSide& source = process.source;
  // Packets are read in order, and the end of the connection comes last.
  if (source.at == SourceAt::kArmed && source.start_pending) {
    BeginPause(world, process);
    return;
  }
  if (process.connection_lost && (source.at == SourceAt::kHeld || source.at == SourceAt::kArmed)) {
    Forget(source);
    return;
  }
  switch (source.at) {
    case SourceAt::kIdle:
    case SourceAt::kHeld:
    case SourceAt::kArmed:
    case SourceAt::kHandedOver:
      return;
    case SourceAt::kPausing:
      world.StopGuest(process);
      source.at = SourceAt::kSaving;
      return;
    case SourceAt::kSaving:
      SaveState(world, process);
      return;
    case SourceAt::kWatching:
      Watch(world, process);
      return;
    case SourceAt::kCondemns:
      CondemnTarget(world, process);
      return;
    case SourceAt::kKills:
      world.Kill(*source.target);
      source.killed = true;
      source.at = SourceAt::kWatching;
      return;
    case SourceAt::kTakesBack:
      TakeBack(world, process);
      return;
  }
}

}  // namespace rehome::sim
