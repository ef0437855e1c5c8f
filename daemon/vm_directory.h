// SPDX-License-Identifier: Apache-2.0
//
// The virtual machines of this host: who runs which guest now. Entries come and go with agent
// connections; the directory holds no fd of any guest's memory.
#ifndef REHOME_DAEMON_VM_DIRECTORY_H_
#define REHOME_DAEMON_VM_DIRECTORY_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "daemon/vmm_link.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// A bound, so that a client of the agent socket cannot make the daemon grow: 10 times the densest
// hosts we know of.
inline constexpr size_t kMaxRegisteredVms = 8192;

// [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?, as in vmm/agent/protocol.h: a DNS label, so that it can be
// part of any name.
bool IsValidVmId(std::string_view vm_id);

struct VmEntry {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint32_t vcpu_count = 0;
  uint64_t memory_bytes = 0;
  std::string vmm;  // "name version"
  uint32_t state_format_write = 0;
  ProcessIdentity process;
  std::string active_migration;  // id or ""
  int64_t register_time_unix_ns = 0;
  uint64_t revision = 0;  // of the directory, at the last change of this entry
};

// Thread-safe. Asks links for hello(), process() and closed() under its own lock: they must not
// wait, and whoever calls Unregister() makes closed() true first.
class VmDirectory {
 public:
  // `max_vms`: tests make it smaller.
  explicit VmDirectory(size_t max_vms = kMaxRegisteredVms) : max_vms_(max_vms) {}

  // `vm` with active_migration and revision ignored. ALREADY_EXISTS / VM_ID_TAKEN if another living
  // process has it; RESOURCE_EXHAUSTED / TOO_MANY_VMS; INVALID_ARGUMENT / BAD_VM_ID.
  // A process that registers its VM again (after a reconnect) replaces its entry. A migration's
  // target registers with `migration_id`, that of the migration active on the VM: it is let in, and
  // waits: HandOver() gives it the VM, or, if that has come and gone without this `link`, the end
  // of the migration or of the process that has the VM. One may wait; others get VM_ID_TAKEN.
  absl::Status Register(const VmEntry& vm, const std::string& migration_id,
                        std::shared_ptr<VmmLink> link);
  // For a daemon that starts with unfinished migrations, before any agent may register: `vm` as
  // the journal has it, `process` its source. Until the migration ends the id belongs to these
  // two: the source gets its entry back when it registers, the target when HandOver() says so.
  // Nobody can see it before. Not bounded by `max_vms`: the journal's unfinished ones were let in.
  void Reserve(const VmEntry& vm, const std::string& migration_id);
  // The process behind `link` is gone or disconnected: drops the entry if it is still its. While a
  // migration is active the entry is only hidden, so that HandOver() can bring it back, or not even
  // that, after KeepListed().
  void Unregister(const VmmLink* link);
  // Of an active migration, from the moment from which its source may be ended before the target
  // has said a word: the entry stays listed whoever is connected, until LoseOwner() or the end of
  // the migration. Tells nobody, for nothing has changed.
  void KeepListed(const std::string& vm_id);
  // `link`'s process is the one that runs `vm_id`, now or next, and the former one never again.
  void HandOver(const std::string& vm_id, std::shared_ptr<VmmLink> link);
  // Of an active migration: nobody has the guest, or nobody knows who. The entry is hidden unless
  // its VMM is connected, until Register() or HandOver() says who has it.
  void LoseOwner(const std::string& vm_id);

  // With the process that has the guest as far as is known: of an active migration the source until
  // HandOver(), then the target.
  absl::StatusOr<VmEntry> Get(const std::string& vm_id) const;  // NOT_FOUND / VM_NOT_FOUND
  std::vector<VmEntry> List() const;                            // by vm_id
  // The live connection to the VMM that runs it. NOT_FOUND / VM_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<VmmLink>> LinkOf(const std::string& vm_id) const;

  // "" = none any more: an entry without connection goes, or passes to the target that waits for
  // it.
  void SetActiveMigration(const std::string& vm_id, const std::string& migration_id);

  // +1 at every change that Get() or List() can show.
  uint64_t revision() const;
  // Blocks until revision() > seen or the timeout; returns the revision then.
  uint64_t WaitForChange(uint64_t seen, std::chrono::milliseconds timeout) const;

 private:
  struct Slot {
    VmEntry entry;
    std::shared_ptr<VmmLink> link;  // null: not connected, and held by the active migration
    bool kept = false;              // KeepListed()
    bool IsVisible() const { return link != nullptr || kept; }
    // A target that was told that it is registered, before or after its HandOver() found nobody.
    VmEntry waiting;
    std::shared_ptr<VmmLink> waiting_link;  // null: none
  };
  // These REQUIRE mutex_.
  void Changed(Slot* slot);
  // For a slot without link or active migration: passes it to whoever waits. False: nobody does.
  bool PassToWaiting(Slot* slot);
  const Slot* FindVisible(const std::string& vm_id) const;

  const size_t max_vms_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<std::string, Slot> slots_;  // by vm_id
  uint64_t revision_ = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_VM_DIRECTORY_H_
