// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/ending.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace rehome::sim {
namespace {

class Ending {
 public:
  Ending(World& world, const std::vector<Migration>& records, const SimStore& store,
         bool escrow_lost)
      : world_(world), records_(records), store_(store), escrow_lost_(escrow_lost) {}

  void Check() {
    for (const Migration& record : records_) CheckRecord(record);
    for (size_t i = 0; i < world_.guests.size(); ++i) CheckGuest(i);
  }

 private:
  void Violate(const std::string& what) { world_.Violate(absl::StrCat("in the end: ", what)); }

  // Newest first, so the first is the last word on the guest; null: it was never migrated.
  const Migration* LastOf(const std::string& vm_id) const {
    for (const Migration& record : records_) {
      if (record.request.vm_id == vm_id) return &record;
    }
    return nullptr;
  }

  bool SomebodyHangs(size_t guest) const {
    for (const Process& process : world_.processes) {
      if (process.guest == guest && process.alive && process.hung) return true;
    }
    return false;
  }

  void CheckRecord(const Migration& record) {
    if (!IsTerminal(record.state)) Violate(absl::StrCat("a record in ", StepName(record.step)));
    const bool undecided = record.state == MigrationState::kIndeterminate;
    if (undecided == store_.contains(record.id) || undecided) return CheckSucceeded(record);
    Violate("the escrow of a finished migration is stored");
  }

  void CheckSucceeded(const Migration& record) {
    if (record.state != MigrationState::kSucceeded) {
      const bool explained = !record.failure.reason.empty();
      if (!explained) Violate("a failure without a reason");
      return;
    }
    const Process* source = world_.Find(record.source);
    if (!record.fence.complete(record.memory_inodes)) Violate("a success without proof");
    if (source == nullptr || source->alive) Violate("a success with a living source");
    const bool moves = source != nullptr && world_.guests[source->guest].moves;
    if (moves && !source->kvm->dead) Violate("a success of a VM that was not moved");
    if (record.owner != GuestOwner::kTarget) Violate("a success that the target does not own");
  }

  void CheckGuest(size_t guest) {
    const Process* runner = world_.RunnerOf(guest);
    const Migration* last = LastOf(world_.guests[guest].vm_id);
    if (runner == nullptr) {
      CheckLoss(guest, last);
    } else if (last != nullptr) {
      CheckOwner(*runner, *last, guest);
    }
    for (const Process& process : world_.processes) {
      if (process.guest == guest && process.alive) CheckSurvivor(process, runner, last);
    }
  }

  void CheckOwner(const Process& runner, const Migration& last, size_t guest) {
    const std::string who = absl::StrCat("p", runner.number, " runs the guest, the record says ");
    if (last.owner == GuestOwner::kUndecided) {
      if (!SomebodyHangs(guest)) Violate(absl::StrCat(who, "UNDECIDED, and nobody hangs"));
      return;
    }
    const bool source = last.owner == GuestOwner::kSource && runner.identity == last.source;
    const bool target = last.owner == GuestOwner::kTarget && runner.identity == last.target;
    if (!source && !target) Violate(absl::StrCat(who, GuestOwnerName(last.owner)));
  }

  // A target may hang between RUNNING and its first KVM_RUN, a source between ABORTED and its next.
  bool HasItAndHangs(const Migration* last) const {
    if (last == nullptr) return false;
    const bool source = last->owner == GuestOwner::kSource;
    const Process* owner = world_.Find(source ? last->source : last->target);
    return owner != nullptr && owner->alive && owner->hung;
  }

  // Nobody runs it: an honest loss, or nobody could tell.
  void CheckLoss(size_t index, const Migration* last) {
    const Guest& guest = world_.guests[index];
    if (last == nullptr || last->owner == GuestOwner::kSource ||
        last->owner == GuestOwner::kTarget) {
      if (!guest.holder_crashed && !HasItAndHangs(last))
        Violate(absl::StrCat(guest.vm_id, " is lost, nobody says so"));
      return;
    }
    if (last->state == MigrationState::kIndeterminate) {
      const bool excused = SomebodyHangs(index) || last->rescue.attempts >= kMaxRescueAttempts ||
                           escrow_lost_ ||
                           (guest.old_agent && guest.moves);  // its word alone settles nothing
      if (!excused) Violate(absl::StrCat(guest.vm_id, " is INDETERMINATE for no reason"));
      return;
    }
    // A daemon that holds the guest's parts stops a target that hangs with it.
    const bool only_daemon_had_it =
        escrow_lost_ && (guest.crashes > 0 || guest.hangs > 0 || last->rescue.attempts > 0);
    const bool excused = guest.holder_crashed || guest.refused_without_source || only_daemon_had_it;
    if (!excused) Violate(absl::StrCat(guest.vm_id, " is lost and need not be"));
  }

  // A process that has lost the guest is dead, or cannot hear that it has.
  void CheckSurvivor(const Process& process, const Process* runner, const Migration* last) {
    if (&process == runner || process.hung) return;
    if (last != nullptr && last->state == MigrationState::kIndeterminate) return;
    Violate(absl::StrCat("p", process.number, " lives on, source ", NameOf(process.source.at),
                         ", target ", NameOf(process.target.at)));
  }

  World& world_;
  const std::vector<Migration>& records_;
  const SimStore& store_;
  const bool escrow_lost_;
};

}  // namespace

void CheckEnding(World& world, const std::vector<Migration>& records, const SimStore& store,
                 bool escrow_lost) {
  Ending(world, records, store, escrow_lost).Check();
}

}  // namespace rehome::sim
