// SPDX-License-Identifier: Apache-2.0
//
// How long a guest stands still. Both deadlines are in the block and each side acts on them by
// itself, so it takes no daemon for the guest to go on; one that is there is no excuse either.
#include "absl/strings/str_cat.h"
#include "tests/simulator/world.h"

namespace rehome::sim {
namespace {

// Beyond both deadlines: three looks of a source that waits (10 ms), the last moments of a target
// that it killed (20 ms), and a few steps.
constexpr Micros kSlack = 60 * kMillisecond;

struct Sides {
  const Process* source = nullptr;  // has paused the guest, and neither lost nor resumed it
  const Process* target = nullptr;  // may claim it, or has, and has not run it yet
};

Sides FindSides(const World& world, size_t guest) {
  Sides sides;
  for (const Process& process : world.processes) {
    if (process.guest != guest || !process.alive || process.signalled) continue;
    const SourceAt source = process.source.at;
    const TargetAt target = process.target.at;
    if (source >= SourceAt::kSaving && source < SourceAt::kHandedOver) sides.source = &process;
    if (target >= TargetAt::kWaiting && target < TargetAt::kRuns) sides.target = &process;
  }
  return sides;
}

// Neither the deadlines nor anybody else can do anything about these.
bool Acts(const Process* process, Micros now) {
  return process != nullptr && !process->hung && process->slow_until <= now;
}

bool SourceGoesOn(const Process& source, const Process* target) {
  const Block& block = *source.source.block;
  if (source.kvm->dead || block.verdict == REHOME_VERDICT_RUNNING) return false;
  // A target between condemning the source and RUNNING can be stopped by nobody.
  const bool may_stop_target =
      block.fence == REHOME_FENCE_STATE_OPEN || block.fence == REHOME_FENCE_STATE_TARGET_CONDEMNED;
  return target == nullptr || may_stop_target;
}

bool TargetGoesOn(const Process& target) {
  const Block& block = *target.target.block;
  if (block.ready != Ready::kComplete || block.verdict == REHOME_VERDICT_ABORTED) return false;
  // A daemon that condemned the source and died before it killed it (docs/handover.md, "What cannot
  // be had").
  return target.target.can_signal || block.fence != REHOME_FENCE_STATE_SOURCE_CONDEMNED;
}

}  // namespace

void World::CheckStandstill(size_t index) {
  Guest& guest = guests[index];
  if (RunnerOf(index) != nullptr) {
    guest.still_since = 0;
    return;
  }
  const Sides sides = FindSides(*this, index);
  const bool source = Acts(sides.source, now_) && SourceGoesOn(*sides.source, sides.target);
  const bool source_hangs = sides.source != nullptr && !Acts(sides.source, now_);
  const bool target = !source_hangs && Acts(sides.target, now_) && TargetGoesOn(*sides.target);
  if (!source && !target) {
    guest.still_since = 0;
    return;
  }
  if (guest.still_since == 0) guest.still_since = now_;
  const Block* block = source ? sides.source->source.block.get() : sides.target->target.block.get();
  const Micros still = now_ - guest.still_since;
  if (still <= block->claim_timeout + block->resolve_timeout + kSlack) return;
  Violate(absl::StrCat(guest.vm_id, " has been standing still for ", still, " us and p",
                       (source ? sides.source : sides.target)->number, " could go on"));
}

}  // namespace rehome::sim
