// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/cell.h"

#include <algorithm>
#include <initializer_list>

#include "tests/chaos/late_cell.h"

namespace rehome::chaos {
namespace {

using v1::Migration;

constexpr char kResume[] = "resume";

// The source's state is not complete: the guest is the source, and nothing but the source.
bool BeforeState(const Phase& phase) {
  return IsAt(phase, Side::kSource, {"describe", "arm", "pause", "saved"}) ||
         IsAt(phase, Side::kTarget, {"start", "prepare", "prepared", "arm"});
}

// The source is held where the other side goes on: by the time of the blow the target may be
// anywhere behind.
bool TargetIsAnywhere(const Phase& phase) { return IsAt(phase, Side::kSource, {"announced"}); }

bool HasTarget(const Phase& phase) { return !IsAt(phase, Side::kSource, {"describe", kResume}); }

// The cells in which a store decides: whoever had the guest's parts is dead, or may be.
bool StoreMatters(const Phase& phase) {
  return IsAt(phase, Side::kTarget,
              {"ready", "claimed", "moving", "moved", "committed", "restored"});
}

}  // namespace

bool IsAt(const Phase& phase, Side side, std::initializer_list<const char*> places) {
  return phase.side == side && std::any_of(places.begin(), places.end(),
                                           [&](const char* place) { return phase.place == place; });
}

bool BeforeStart(const Phase& phase) {
  return BeforeState(phase) && !IsAt(phase, Side::kSource, {"pause", "saved"});
}

bool AfterRunning(const Phase& phase) {
  return IsAt(phase, Side::kTarget, {"running", "first-run", "owner"}) ||
         IsAt(phase, Side::kSource, {"handed-over", "release"});
}

bool PastTheSource(const Variant& variant, const Phase& phase) {
  if (variant.moves()) return IsAt(phase, Side::kTarget, {"moved", "committed", "restored"});
  return variant.policy == Migration::BEFORE_RESUME && IsAt(phase, Side::kTarget, {"committed"});
}

std::string Phase::Name() const {
  switch (side) {
    case Side::kSource:
      return "source:" + place;
    case Side::kTarget:
      return "target:" + place;
    case Side::kDaemon:
      return "daemon:" + place;
  }
  return place;
}

std::string FirstBlow::Name() const { return victims.Name() + "@" + phase.Name(); }

std::string Victims::Name() const {
  std::string name;
  const auto add = [&name](bool is, const char* who) {
    if (is) name += (name.empty() ? "" : "+") + std::string(who);
  };
  add(daemon, "daemon");
  add(source, "source");
  add(target, "target");
  return name;
}

std::string Cell::Name() const {
  std::string name = variant.backend + "/" + variant.name + "/";
  switch (within) {
    case Within::kHandover:
      break;
    case Within::kRescue:
      name += "rescue/" + first.Name() + "/";
      break;
    case Within::kRecovery:
      name += "recovery/" + first.Name() + "/";
      break;
  }
  return name + phase.Name() + "/" + victims.Name() + "/" +
         (blow == Blow::kKill ? "kill" : "stop") + (store ? "/store" : "");
}

std::vector<Variant> Variants(const std::string& backend) {
  const Variant before = {.name = "map-before",
                          .backend = backend,
                          .vm_type = "default",
                          .memory_kind = backend == "sim" ? "memfd" : "gmem",
                          .policy = Migration::BEFORE_RESUME,
                          .strategy = Migration::MAP};
  Variant after = before;
  after.name = "map-after";
  after.policy = Migration::AFTER_RESUME;
  const Variant moves = {.name = "link-move",
                         .backend = backend,
                         .vm_type = "sw-protected",
                         .memory_kind = "",
                         .policy = Migration::KERNEL,
                         .strategy = Migration::LINK_MOVE};
  // No kernel of today can MOVE a VM whose memory is LINKed, nor LINK one's; none here has SEV.
  if (backend == "kvm") return {before, after};
  const Variant map_moves = {.name = "map-move",
                             .backend = backend,
                             .vm_type = "sev-es",
                             .memory_kind = "",
                             .policy = Migration::KERNEL,
                             .strategy = Migration::MAP_MOVE};
  const Variant link = {.name = "link-before",
                        .backend = backend,
                        .vm_type = "default",
                        .memory_kind = "",
                        .policy = Migration::BEFORE_RESUME,
                        .strategy = Migration::LINK};
  return {moves, map_moves, before, after, link};
}

std::vector<std::string> TargetPlaces(const Variant& variant) {
  std::vector<std::string> places = {"start", "prepare", "prepared", "arm", "ready", "claimed"};
  for (const char* place : {"moving", "moved", "committed", "restored"}) {
    if (variant.moves()) places.emplace_back(place);
  }
  for (const char* place : {"restored", "committed"}) {
    if (!variant.moves()) places.emplace_back(place);
  }
  for (const char* place : {"running", "first-run", "owner"}) places.emplace_back(place);
  return places;
}

std::vector<Phase> Phases(const Variant& variant) {
  std::vector<Phase> phases;
  const auto add = [&phases](Side side, std::initializer_list<const char*> places) {
    for (const char* place : places) phases.push_back({side, place});
  };
  add(Side::kSource, {"describe"});
  add(Side::kTarget, {"start", "prepare", "prepared", "arm"});
  add(Side::kSource, {"arm", "pause", "saved"});
  // A source that is fenced before RUNNING may not live to see these.
  const bool sees = variant.policy != Migration::BEFORE_RESUME;
  if (sees) add(Side::kSource, {"announced"});
  for (const std::string& place : TargetPlaces(variant)) {
    if (!IsAt({Side::kTarget, place}, Side::kTarget, {"start", "prepare", "prepared", "arm"})) {
      phases.push_back({Side::kTarget, place});
    }
  }
  if (sees) add(Side::kSource, {"handed-over", "release"});
  add(Side::kSource, {kResume});
  return phases;
}

std::vector<Cell> Cells(const Variant& variant, Blow blow) {
  constexpr Victims kEach[] = {{.daemon = true},
                               {.source = true},
                               {.target = true},
                               {.daemon = true, .source = true},
                               {.daemon = true, .target = true},
                               {.source = true, .target = true}};
  std::vector<Cell> cells;
  for (const Phase& phase : Phases(variant)) {
    for (const Victims& victims : kEach) {
      if (victims.target && !HasTarget(phase)) continue;
      const Cell cell = {variant, phase, victims, blow, false};
      cells.push_back(cell);
      if (blow != Blow::kKill || !victims.daemon || !StoreMatters(phase)) continue;
      cells.push_back(cell);
      cells.back().store = true;
    }
    if (blow == Blow::kKill && StoreMatters(phase)) {
      for (const bool store : {false, true}) {
        cells.push_back({variant, phase, {true, true, true}, blow, store});
      }
    }
  }
  return cells;
}

bool TargetDiesFirst(const Phase& phase) { return IsAt(phase, Side::kSource, {kResume}); }

bool AwaitsTheFence(const Cell& cell) {
  if (cell.within != Within::kHandover) return false;
  const Victims& killed = cell.victims;
  return cell.blow == Blow::kKill && killed.target && !killed.source && !killed.daemon &&
         !cell.variant.moves() && PastTheSource(cell.variant, cell.phase);
}

bool MayBeLost(const Cell& cell) {
  if (cell.within != Within::kHandover) return LateMayBeLost(cell);
  const Victims& killed = cell.victims;
  if (cell.blow != Blow::kKill) return false;
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return killed.source;
  if (AfterRunning(cell.phase) || TargetIsAnywhere(cell.phase)) return killed.target;
  // The state is complete. It outlives whoever does not take the escrow along.
  if (!killed.daemon || !killed.target || cell.store) return false;
  return killed.source || PastTheSource(cell.variant, cell.phase);
}

bool MayDieAsOwner(const Cell& cell, Side side) {
  if (cell.within != Within::kHandover) return LateMayDieAsOwner(cell, side);
  if (cell.blow != Blow::kKill) return false;
  if (side == Side::kSource) return cell.victims.source && BeforeStart(cell.phase);
  return cell.victims.target && (AfterRunning(cell.phase) || TargetIsAnywhere(cell.phase));
}

bool MustSucceed(const Cell& cell) {
  if (cell.within != Within::kHandover) return LateMustSucceed(cell);
  const Victims& killed = cell.victims;
  if (cell.blow != Blow::kKill || MayBeLost(cell)) return false;
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return false;
  if (AfterRunning(cell.phase) || killed.source) return true;
  // A daemon that dies at COMMITTED may not have fenced the source yet, which then takes it back.
  return killed.target && PastTheSource(cell.variant, cell.phase) &&
         (cell.variant.moves() || !killed.daemon);
}

bool IsMidHandover(const Phase& phase) {
  return (!BeforeState(phase) || IsAt(phase, Side::kSource, {"saved"})) && !AfterRunning(phase) &&
         !TargetDiesFirst(phase);
}

bool MayBeIndeterminate(const Cell& cell) {
  if (cell.within != Within::kHandover) return LateMayBeIndeterminate(cell);
  const Victims& hung = cell.victims;
  if (cell.blow != Blow::kStop || !hung.source || BeforeStart(cell.phase)) return false;
  // A source that has the guest and is asked for it, or both.
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return true;
  return hung.target;
}

bool GoesOnWithoutDaemon(const Cell& cell) {
  if (!cell.victims.daemon) return false;
  if (cell.within != Within::kHandover) return LateGoesOnWithoutDaemon(cell);
  return !cell.victims.source && !cell.victims.target;
}

std::vector<Cell> AllCells(const Variant& variant, Blow blow) {
  std::vector<Cell> cells = Cells(variant, blow);
  for (const auto& late : {RescueCells(variant, blow), RecoveryCells(variant, blow)}) {
    cells.insert(cells.end(), late.begin(), late.end());
  }
  return cells;
}

namespace {

bool IsTestedHandover(const Cell& cell) {
  const std::string& variant = cell.variant.name;
  // In all else map-move is as link-move, and link-before as map-before.
  if (variant == "map-move") {
    return IsAt(cell.phase, Side::kTarget, {"moving", "moved", "committed"});
  }
  return variant != "link-before" || IsAt(cell.phase, Side::kTarget, {"claimed", "committed"});
}

bool IsTestedRescue(const Cell& cell) {
  // It is waited for as long as a slow start may take.
  const bool hangs_early = cell.blow == Blow::kStop && cell.victims.target;
  if (IsAt(cell.phase, Side::kTarget, {"prepare"})) {
    return cell.variant.name == "link-move" && !hangs_early;
  }
  if (cell.variant.moves()) {
    return !cell.first.victims.source && cell.variant.name == "link-move" &&
           IsAt(cell.phase, Side::kTarget, {"arm", "moved", "running"});
  }
  return cell.variant.name == "map-before" && IsAt(cell.phase, Side::kTarget, {"arm", "committed"});
}

bool IsTestedRecovery(const Cell& cell) {
  const bool is_first = cell.variant.name == "link-move" ||
                        (cell.variant.backend == "kvm" && cell.variant.name == "map-before");
  return is_first && IsAt(cell.phase, Side::kDaemon, {"asking", "asked", "rebuilt"});
}

}  // namespace

bool IsTested(const Cell& cell) {
  switch (cell.within) {
    case Within::kHandover:
      return IsTestedHandover(cell);
    case Within::kRescue:
      return IsTestedRescue(cell);
    case Within::kRecovery:
      return IsTestedRecovery(cell);
  }
  return false;
}

Cell Unstruck(const Cell& cell, bool first_landed) {
  Cell unstruck = {.variant = cell.variant, .phase = cell.first.phase, .store = cell.store};
  if (first_landed) unstruck.victims = cell.first.victims;
  return unstruck;
}

}  // namespace rehome::chaos
