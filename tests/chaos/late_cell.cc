// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/late_cell.h"

#include <algorithm>

namespace rehome::chaos {
namespace {

using v1::Migration;

constexpr RecoveryPlace kRecoveryPlaces[] = {
    {"replayed", 1, true}, {"asking", 1, false}, {"asked", 2, true},   {"decided", 2, false},
    {"settled", 3, true},  {"acting", 3, false}, {"rebuilt", 4, true}, {"handing-over", 4, false},
};

// How many of them a daemon comes to for certain: the fewest steps to the end of the migration.
size_t PlacesOf(Standing standing) {
  switch (standing) {
    case Standing::kStranded:
      return 8;  // RECOVERING, ABORTING, RESCUING, RESCUE_HANDING_OVER
    case Standing::kOnTarget:
      return 6;  // RECOVERING, FIRST_RUN, FENCING; DONE then ends it
    case Standing::kOnSource:
      return 4;  // RECOVERING, DISCARDING_TARGET; DONE then ends it
  }
  return 0;
}

// The first blow has left the source alive, although without the guest.
bool HasSource(const Cell& cell) {
  if (cell.first.victims.source) return false;
  // The daemon's fence, or the target's own.
  const bool fenced = !cell.variant.moves() && cell.variant.policy == Migration::BEFORE_RESUME;
  return !fenced || StandingAfter(cell.variant, cell.first) == Standing::kOnSource;
}

bool HasTarget(const Cell& cell) {
  return cell.within == Within::kRescue ||
         StandingAfter(cell.variant, cell.first) == Standing::kOnTarget;
}

// A rescue's target knows that the state is complete, and needs its daemon no more.
bool WasTold(const Phase& phase) {
  return !IsAt(phase, Side::kTarget, {"start", "prepare", "prepared", "arm"});
}

// RESCUE_HANDING_OVER is journalled before ARM_TARGET: the record names this target, not the first.
bool IsOnRecord(const Phase& phase) {
  return !IsAt(phase, Side::kTarget, {"start", "prepare", "prepared"});
}

void AddEachVictim(Cell cell, std::vector<Cell>& cells) {
  for (int bits = 1; bits < 8; ++bits) {
    const Victims victims = {
        .daemon = (bits & 1) != 0, .source = (bits & 2) != 0, .target = (bits & 4) != 0};
    if (victims.source && !HasSource(cell)) continue;
    if (victims.target && !HasTarget(cell)) continue;
    cell.victims = victims;
    cells.push_back(cell);
  }
}

// A rescue waits for a target that prepares as long as the largest guest may take, a minute, and no
// cell can shorten that. What becomes of it is not a matter of the variant.
bool TakesAMinute(const Cell& cell) {
  return cell.blow == Blow::kStop && cell.victims.target &&
         IsAt(cell.phase, Side::kTarget, {"prepare", "prepared"});
}
bool MayTakeAMinute(const Cell& cell) {
  return cell.variant.name == "link-move" && !cell.first.victims.source;
}

std::vector<FirstBlow> RescueBlows(const Variant& variant) {
  const Victims target = {.target = true}, both = {.source = true, .target = true};
  if (variant.moves()) {
    return {{{Side::kTarget, "moved"}, target}, {{Side::kTarget, "moved"}, both}};
  }
  if (variant.policy == Migration::BEFORE_RESUME) return {{{Side::kTarget, "committed"}, target}};
  return {{{Side::kTarget, "claimed"}, both}};
}

struct RecoveryBlow {
  FirstBlow blow;
  std::vector<bool> stores;
};

std::vector<RecoveryBlow> RecoveryBlows(const Variant& variant) {
  const Victims daemon = {.daemon = true}, with_target = {.daemon = true, .target = true},
                all = {.daemon = true, .source = true, .target = true};
  std::vector<RecoveryBlow> blows = {
      {{{Side::kTarget, "prepare"}, daemon}, {false}},
      {{{Side::kTarget, "claimed"}, daemon}, {false, true}},
      {{{Side::kTarget, "claimed"}, with_target}, {false}},
      {{{Side::kTarget, "claimed"}, all}, {true}},
  };
  if (variant.moves()) {
    blows.push_back({{{Side::kTarget, "moved"}, with_target}, {false, true}});
  }
  return blows;
}

// The record of the daemon that was killed does not say yet that the source's VM is dead: that is
// ABORTING's to find out, and with the step after it on record.
bool IsSourceUnasked(const Cell& cell) {
  return IsAt(cell.phase, Side::kDaemon, {"replayed", "asking", "asked", "decided"});
}

bool IsNobodyAsked(const Cell& cell) {
  return IsAt(cell.phase, Side::kDaemon, {"replayed", "asking"});
}

// Whether what is left of a stranded guest outlives the cell's blow.
bool HasEscrow(const Cell& cell) {
  const Victims& killed = cell.victims;
  if (cell.within == Within::kRecovery) return cell.store;
  return cell.store || !killed.daemon || (WasTold(cell.phase) && !killed.target);
}

}  // namespace

std::vector<RecoveryPlace> RecoveryPlaces() {
  return {std::begin(kRecoveryPlaces), std::end(kRecoveryPlaces)};
}

RecoveryPlace FindRecoveryPlace(const std::string& name) {
  return *std::find_if(std::begin(kRecoveryPlaces), std::end(kRecoveryPlaces),
                       [&name](const RecoveryPlace& place) { return name == place.name; });
}

Standing StandingAfter(const Variant& variant, const FirstBlow& first) {
  if (!first.victims.target) {
    return BeforeStart(first.phase) ? Standing::kOnSource : Standing::kOnTarget;
  }
  const bool stranded = first.victims.source || PastTheSource(variant, first.phase);
  return stranded ? Standing::kStranded : Standing::kOnSource;
}

std::vector<Cell> RescueCells(const Variant& variant, Blow blow) {
  std::vector<Cell> cells;
  for (const FirstBlow& first : RescueBlows(variant)) {
    for (const std::string& place : TargetPlaces(variant)) {
      Cell cell = {.variant = variant,
                   .phase = {Side::kTarget, place},
                   .blow = blow,
                   .within = Within::kRescue,
                   .first = first};
      std::vector<Cell> each;
      AddEachVictim(cell, each);
      for (Cell& with : each) {
        if (TakesAMinute(with) && !MayTakeAMinute(with)) continue;
        cells.push_back(with);
        if (blow != Blow::kKill || !with.victims.daemon) continue;
        with.store = true;
        cells.push_back(with);
      }
    }
  }
  return cells;
}

std::vector<Cell> RecoveryCells(const Variant& variant, Blow blow) {
  std::vector<Cell> cells;
  for (const RecoveryBlow& first : RecoveryBlows(variant)) {
    for (const bool store : first.stores) {
      // Without its escrow a stranded guest is lost in ABORTING, and there is no rescue.
      const Standing standing = StandingAfter(variant, first.blow);
      const size_t places = standing == Standing::kStranded && !store ? 4 : PlacesOf(standing);
      for (size_t i = 0; i < places; ++i) {
        AddEachVictim({.variant = variant,
                       .phase = {Side::kDaemon, kRecoveryPlaces[i].name},
                       .blow = blow,
                       .store = store,
                       .within = Within::kRecovery,
                       .first = first.blow},
                      cells);
      }
    }
  }
  return cells;
}

bool LateMayBeLost(const Cell& cell) {
  if (cell.within == Within::kRescue) {
    if (cell.blow != Blow::kKill) return false;
    return AfterRunning(cell.phase) ? cell.victims.target : !HasEscrow(cell);
  }
  switch (StandingAfter(cell.variant, cell.first)) {
    case Standing::kStranded:
      return !HasEscrow(cell);  // whoever is struck now, and however
    case Standing::kOnTarget:
      return cell.blow == Blow::kKill && cell.victims.target;
    case Standing::kOnSource:
      return cell.blow == Blow::kKill && cell.victims.source;
  }
  return false;
}

bool LateMayDieAsOwner(const Cell& cell, Side side) {
  if (cell.blow != Blow::kKill) return false;
  if (cell.within == Within::kRescue) {
    return side == Side::kTarget && cell.victims.target && AfterRunning(cell.phase);
  }
  const Standing standing = StandingAfter(cell.variant, cell.first);
  if (side == Side::kTarget) return cell.victims.target && standing == Standing::kOnTarget;
  return cell.victims.source && standing == Standing::kOnSource;
}

bool LateMustSucceed(const Cell& cell) {
  if (cell.blow != Blow::kKill || LateMayBeLost(cell)) return false;
  return cell.within == Within::kRescue ||
         StandingAfter(cell.variant, cell.first) != Standing::kOnSource;
}

bool LateMayBeIndeterminate(const Cell& cell) {
  const Victims& hung = cell.victims;
  // Once a rescue has begun it is on record that the source is out.
  if (cell.blow != Blow::kStop || cell.within == Within::kRescue) return false;
  switch (StandingAfter(cell.variant, cell.first)) {
    case Standing::kStranded:
      return hung.source && IsSourceUnasked(cell);
    case Standing::kOnTarget:
      // The target is the only one that knows, or both are.
      return hung.target && (hung.source || !HasSource(cell)) && !cell.store && IsNobodyAsked(cell);
    case Standing::kOnSource:
      return hung.source && IsNobodyAsked(cell) && !BeforeStart(cell.first.phase);
  }
  return false;
}

bool LateGoesOnWithoutDaemon(const Cell& cell) {
  const Victims& struck = cell.victims;
  if (cell.within == Within::kRescue) return WasTold(cell.phase) && !struck.target;
  switch (StandingAfter(cell.variant, cell.first)) {
    case Standing::kStranded:
      return false;
    case Standing::kOnTarget:
      return !struck.target;
    case Standing::kOnSource:
      return !struck.source;
  }
  return false;
}

bool StaysUndecidedForWantOfABlock(const Cell& cell) {
  const Victims& killed = cell.victims;
  if (cell.within != Within::kRescue || cell.blow != Blow::kKill || cell.store) return false;
  return killed.daemon && killed.target && !killed.source && HasSource(cell) &&
         IsOnRecord(cell.phase);
}

bool LosesItsLastContext(const Cell& cell) {
  const Victims& killed = cell.victims;
  if (cell.within != Within::kRescue || cell.blow != Blow::kKill || cell.store) return false;
  return killed.daemon && !killed.target && !killed.source && HasSource(cell) &&
         IsAt(cell.phase, Side::kTarget, {"arm"});
}

}  // namespace rehome::chaos
