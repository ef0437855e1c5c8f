// SPDX-License-Identifier: Apache-2.0
//
// The kill matrix, as data: which cells there are, and what docs/handover.md and docs/recovery.md
// promise about each. Pure.
#ifndef REHOME_TESTS_CHAOS_CELL_H_
#define REHOME_TESTS_CHAOS_CELL_H_

#include <cstdint>
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

  bool moves() const { return strategy == v1::Migration::LINK_MOVE; }
};

enum class Side : uint8_t { kSource, kTarget };

// Where the VMM of one side is held while the blow falls.
struct Phase {
  Side side = Side::kSource;
  std::string place;  // vmm/reference/test_hooks.h

  std::string Name() const { return (side == Side::kSource ? "source:" : "target:") + place; }
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

struct Cell {
  Variant variant;
  Phase phase;
  Victims victims;
  Blow blow = Blow::kKill;
  bool store = false;  // a service manager keeps the daemon's escrow

  std::string Name() const;
};

std::vector<Variant> Variants(const std::string& backend);
// In the order in which a migration passes them, `resume` last: it is reached when a target dies.
std::vector<Phase> Phases(const Variant& variant);
// Every victim and pair of victims that there is at that phase; and, with a service manager, all
// three.
std::vector<Cell> Cells(const Variant& variant, Blow blow);

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

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_CELL_H_
