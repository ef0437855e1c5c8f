// SPDX-License-Identifier: Apache-2.0
//
// The kill matrix, as data: which cells there are, and what docs/handover.md and docs/recovery.md
// promise about each. Pure.
#ifndef REHOME_TESTS_CHAOS_CELL_H_
#define REHOME_TESTS_CHAOS_CELL_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "proto/rehome/v1/migration.pb.h"

namespace rehome::chaos {

// How a guest is made and moved.
struct Variant {
  std::string name;     // "map-before"
  std::string backend;  // "kvm", "sim"
  std::string vm_type;
  std::string memory_kind;  // of the VMM's --memory-kind; "": the VM type's own
  v1::Migration::FencePolicy policy = v1::Migration::BEFORE_RESUME;
  v1::Migration::Strategy strategy = v1::Migration::MAP;

  bool moves() const {
    return strategy == v1::Migration::LINK_MOVE || strategy == v1::Migration::MAP_MOVE;
  }
};

enum class Side : uint8_t { kSource, kTarget, kDaemon };

// Where somebody is held while the blow falls.
struct Phase {
  Side side = Side::kSource;
  std::string place;  // of a VMM: vmm/reference/test_hooks.h; of the daemon: late_cell.h

  std::string Name() const;  // "target:moved"
};

struct Victims {
  bool daemon = false;
  bool source = false;
  bool target = false;

  std::string Name() const;  // "daemon+source"
};

enum class Blow : uint8_t {
  kKill,  // SIGKILL
  kStop,  // SIGSTOP, and SIGCONT once the outcome is known
};

// What the cell's blow falls into.
enum class Within : uint8_t {
  kHandover,  // a migration to which nothing has happened yet
  kRescue,    // its first target is dead; the phase is one of the next target's
  kRecovery,  // its daemon is dead; the phase is one of the next daemon's
};

// What makes it a rescue or a recovery: SIGKILL, at a phase of the handover.
struct FirstBlow {
  Phase phase;
  Victims victims;

  std::string Name() const;  // "daemon+target@target:moved"
};

struct Cell {
  Variant variant;
  Phase phase;
  Victims victims;  // in a rescue `target` is the next one
  Blow blow = Blow::kKill;
  bool store = false;  // a service manager keeps the daemon's escrow
  Within within = Within::kHandover;
  FirstBlow first = {};  // of a rescue or a recovery

  std::string Name() const;
};

std::vector<Variant> Variants(const std::string& backend);
// In the order in which a migration passes them, `resume` last: it is reached when a target dies.
std::vector<Phase> Phases(const Variant& variant);
// Every victim and pair of victims that there is at that phase; and, with a service manager, all
// three. Within kHandover; late_cell.h has the others.
std::vector<Cell> Cells(const Variant& variant, Blow blow);
// Cells of all three kinds.
std::vector<Cell> AllCells(const Variant& variant, Blow blow);

// What is left of a cell whose own blow never landed: its first one (`first_landed`), or nothing
// but a migration.
Cell Unstruck(const Cell& cell, bool first_landed);

// Whether the cell is a part of ./dev test: the others take too long for each change, and are left
// to ./dev chaos (docs/chaos.md).
bool IsTested(const Cell& cell);

// The target dies by itself at the claim, or the source would never come to this phase.
bool TargetDiesFirst(const Phase& phase);

// The blow falls only once the daemon has killed the source. It does so at COMMITTED, at the same
// time as the target comes to that phase: a blow at once would sometimes find a source that can
// still take the guest back, sometimes not.
bool AwaitsTheFence(const Cell& cell);

// Whether the promise has an exception for this cell. Only kills can lose a guest: of who had it.
bool MayBeLost(const Cell& cell);
// Whether the VMM of that side may die only after the record has named it the owner: it was struck
// while nothing of the migration was left to depend on it, and a process that dies is not dead yet.
bool MayDieAsOwner(const Cell& cell, Side side);
// Whether the migration must have succeeded in spite of the blow: the source is out, and what is
// left of the guest can only go on elsewhere.
bool MustSucceed(const Cell& cell);
// Whether the guest stands still, and nothing but the VMMs can end that without the daemon.
bool IsMidHandover(const Phase& phase);
// Whether nobody can know who has the guest before those that hang are let go.
bool MayBeIndeterminate(const Cell& cell);
// Whether the guest goes on without the daemon that the blow strikes. False: it does not, or need
// not.
bool GoesOnWithoutDaemon(const Cell& cell);
// Whether the migration may be INDETERMINATE until an operator ends the source, although nobody
// hangs: the daemon comes back without the block of a dead target, to a source whose VM is dead. To
// be deleted once PROBE tells such a source from one that might have the guest.
bool StaysUndecidedForWantOfABlock(const Cell& cell);
// Whether it may stay so until the daemon is restarted once more: the first daemon died while it
// armed a rescue's target, which lives and is the last to hold the VM with the context, and the
// next daemon ends it. To be deleted once that daemon gives it the state instead.
bool LosesItsLastContext(const Cell& cell);

// ---- what both kinds of cells go by ----

bool IsAt(const Phase& phase, Side side, std::initializer_list<const char*> places);
// START has not been sent: whatever happens, the source never paused.
bool BeforeStart(const Phase& phase);
// The verdict is RUNNING: the guest is the target.
bool AfterRunning(const Phase& phase);
// The source cannot take the guest back any more: it is dead by MOVE, or by the daemon's fence.
bool PastTheSource(const Variant& variant, const Phase& phase);
// Places that a target passes from its start to the guest's first run, in order.
std::vector<std::string> TargetPlaces(const Variant& variant);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_CELL_H_
