// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/cell.h"

#include <algorithm>
#include <initializer_list>

namespace rehome::chaos {
namespace {

using v1::Migration;

constexpr char kResume[] = "resume";

bool IsAt(const Phase& phase, Side side, std::initializer_list<const char*> places) {
  return phase.side == side && std::any_of(places.begin(), places.end(),
                                           [&](const char* place) { return phase.place == place; });
}

// The source's state is not complete: the guest is the source, and nothing but the source.
bool BeforeState(const Phase& phase) {
  return IsAt(phase, Side::kSource, {"describe", "arm", "pause", "saved"}) ||
         IsAt(phase, Side::kTarget, {"start", "prepare", "prepared", "arm"});
}

// START has not been sent: whatever happens, the source never paused.
bool BeforeStart(const Phase& phase) {
  return BeforeState(phase) && !IsAt(phase, Side::kSource, {"pause", "saved"});
}

// The verdict is RUNNING: the guest is the target.
bool AfterRunning(const Phase& phase) {
  return IsAt(phase, Side::kTarget, {"running", "first-run", "owner"}) ||
         IsAt(phase, Side::kSource, {"handed-over", "release"});
}

// The source is held where the other side goes on: by the time of the blow the target may be
// anywhere behind.
bool TargetIsAnywhere(const Phase& phase) { return IsAt(phase, Side::kSource, {"announced"}); }

// The source cannot take the guest back any more: it is dead by MOVE, or by the daemon's fence.
bool PastTheSource(const Cell& cell) {
  if (cell.variant.moves()) {
    return IsAt(cell.phase, Side::kTarget, {"moved", "committed", "restored"});
  }
  return cell.variant.policy == Migration::BEFORE_RESUME &&
         IsAt(cell.phase, Side::kTarget, {"committed"});
}

bool HasTarget(const Phase& phase) { return !IsAt(phase, Side::kSource, {"describe", kResume}); }

// The cells in which a store decides: whoever had the guest's parts is dead, or may be.
bool StoreMatters(const Phase& phase) {
  return IsAt(phase, Side::kTarget,
              {"ready", "claimed", "moving", "moved", "committed", "restored"});
}

}  // namespace

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
  return variant.backend + "/" + variant.name + "/" + phase.Name() + "/" + victims.Name() + "/" +
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
  // No kernel of today can MOVE a VM whose memory is LINKed.
  if (backend == "kvm") return {before, after};
  return {moves, before, after};
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
  add(Side::kTarget, {"ready", "claimed"});
  if (variant.moves()) {
    add(Side::kTarget, {"moving", "moved", "committed", "restored"});
  } else {
    add(Side::kTarget, {"restored", "committed"});
  }
  add(Side::kTarget, {"running", "first-run", "owner"});
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
  const Victims& killed = cell.victims;
  return cell.blow == Blow::kKill && killed.target && !killed.source && !killed.daemon &&
         !cell.variant.moves() && PastTheSource(cell);
}

bool MayBeLost(const Cell& cell) {
  const Victims& killed = cell.victims;
  if (cell.blow != Blow::kKill) return false;
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return killed.source;
  if (AfterRunning(cell.phase) || TargetIsAnywhere(cell.phase)) return killed.target;
  // The state is complete. It outlives whoever does not take the escrow along.
  if (!killed.daemon || !killed.target || cell.store) return false;
  return killed.source || PastTheSource(cell);
}

bool MayDieAsOwner(const Cell& cell, Side side) {
  if (cell.blow != Blow::kKill) return false;
  if (side == Side::kSource) return cell.victims.source && BeforeStart(cell.phase);
  return cell.victims.target && (AfterRunning(cell.phase) || TargetIsAnywhere(cell.phase));
}

bool MustSucceed(const Cell& cell) {
  const Victims& killed = cell.victims;
  if (cell.blow != Blow::kKill || MayBeLost(cell)) return false;
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return false;
  if (AfterRunning(cell.phase) || killed.source) return true;
  // A daemon that dies at COMMITTED may not have fenced the source yet, which then takes it back.
  return killed.target && PastTheSource(cell) && (cell.variant.moves() || !killed.daemon);
}

bool IsMidHandover(const Phase& phase) {
  return (!BeforeState(phase) || IsAt(phase, Side::kSource, {"saved"})) && !AfterRunning(phase) &&
         !TargetDiesFirst(phase);
}

bool MayBeIndeterminate(const Cell& cell) {
  const Victims& hung = cell.victims;
  if (cell.blow != Blow::kStop || !hung.source || BeforeStart(cell.phase)) return false;
  // A source that has the guest and is asked for it, or both.
  if (BeforeState(cell.phase) || TargetDiesFirst(cell.phase)) return true;
  return hung.target;
}

}  // namespace rehome::chaos
