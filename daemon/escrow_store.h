// SPDX-License-Identifier: Apache-2.0
//
// Where the escrow of a migration is while no daemon runs: with the service manager, which keeps
// descriptors for a service and hands them back to its next process (sd_notify(3), FDSTORE=1).
// Each is stored under the name MIGRATION_ID.ITEM; ITEM is one of those below.
//
// What comes back is as little trusted as what an agent sends: the names are checked here, the
// descriptors in escrow_description.h.
#ifndef REHOME_DAEMON_ESCROW_STORE_H_
#define REHOME_DAEMON_ESCROW_STORE_H_

#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/service_manager.h"
#include "daemon/vmm_link.h"
#include "kvmglue/fd.h"

namespace rehome {

// VMs of targets that a rescue built, of which any of the latest may hold the guest's context: as
// many as a drive has attempts. A further one takes the place of the last.
inline constexpr size_t kMaxStoredRescueVms = 3;
// A described VM has REHOME_MAX_DESCRIBED_FDS (VM, memory, config, named); with it go the target's
// VM and memory (16), the handover block and the description, and of a rescue its block, its VMs
// and their memory.
inline constexpr size_t kMaxFdsPerEscrow = 134;
// As many as can be under way (kMaxConcurrent of daemon/registry.h), and as many again that ended
// INDETERMINATE and whose escrow may be what is left of a guest.
inline constexpr size_t kMaxStoredEscrows = 128;
// FileDescriptorStoreMax= of packaging/rehomed.service: beyond it the manager closes what it gets
// and says nothing to us.
inline constexpr size_t kMaxStoredFds = kMaxStoredEscrows * kMaxFdsPerEscrow;

// Items; memory and named devices have their index behind the dash.
inline constexpr char kEscrowBlock[] = "block";
inline constexpr char kEscrowSourceVm[] = "source-vm";
inline constexpr char kEscrowTargetVm[] = "target-vm";
inline constexpr char kEscrowMemoryPrefix[] = "memory-";
// Files of the target's own, with LINK; otherwise duplicates of the source's.
inline constexpr char kEscrowTargetMemoryPrefix[] = "target-memory-";
inline constexpr char kEscrowConfig[] = "config";
inline constexpr char kEscrowNamedPrefix[] = "named-";
inline constexpr char kEscrowDescription[] = "description";
inline constexpr char kEscrowRescueBlock[] = "rescue-block";
inline constexpr char kEscrowRescueVmPrefix[] = "rescue-vm-";
// And the number of the VM times REHOME_MAX_MEMORIES, plus the index.
inline constexpr char kEscrowRescueMemoryPrefix[] = "rescue-memory-";

struct EscrowItem {
  std::string name;  // without the migration's id
  BorrowedFd fd;     // stays the caller's; the manager gets a duplicate
};

// Thread-safe.
class EscrowStore {
 public:
  virtual ~EscrowStore() = default;

  // False: nobody keeps descriptors for us. Then Put() and Remove() are OK and do nothing, and
  // nothing came back.
  virtual bool supported() const = 0;

  // Once it returns OK the descriptors survive this process. An item that the migration has stored
  // under that name is replaced; between the two the store has neither. On an error nothing of
  // this call is left in the store: RESOURCE_EXHAUSTED / ESCROW_STORE_FULL (the bounds above),
  // UNAVAILABLE / SERVICE_MANAGER_FAILED (the manager does not read), INVALID_ARGUMENT /
  // BAD_ESCROW_ITEM (a name that it cannot have, or twice: a bug of ours).
  virtual absl::Status Put(const std::string& migration_id,
                           const std::vector<EscrowItem>& items) = 0;
  // Makes the manager close all that is stored of it, also what was stored by an earlier daemon.
  // What Take() has not given out is closed here too. OK for a migration that has nothing stored.
  // UNAVAILABLE / SERVICE_MANAGER_FAILED: still stored, may be called again.
  virtual absl::Status Remove(const std::string& migration_id) = 0;

  // Blocks until the manager has done what it was told before: Remove() only tells it. UNAVAILABLE
  // / SERVICE_MANAGER_FAILED. OK without a manager.
  virtual absl::Status Barrier() = 0;

  // False: what came back could not be told apart and was closed, so that an empty answer of
  // Take() says nothing of what the manager has.
  virtual bool all_came_back() const { return true; }
  // What an earlier daemon had stored of it, by item; empty if nothing, or taken already. The
  // manager keeps its own duplicates until Remove().
  virtual std::vector<NamedFd> Take(const std::string& migration_id) = 0;
  // Migrations of which something came back when this daemon started and has not been taken.
  virtual std::vector<std::string> restored() const = 0;
  // Removes what came back and belongs to none of `unfinished` (a finished migration, or no
  // migration's name at all): a forgotten descriptor pins a dead guest's memory. Returns how many
  // descriptors; those that the manager could not be told about are closed here and counted too.
  virtual size_t DropUnclaimed(const std::set<std::string>& unfinished) = 0;

  // For metrics: descriptors in the store now, as far as this daemon knows.
  virtual size_t stored_fds() const = 0;
};

// Takes what came back from `manager`, which must outlive the store. Never fails: without a manager
// the store is one that supports nothing.
std::unique_ptr<EscrowStore> NewEscrowStore(ServiceManager* manager);

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_STORE_H_
