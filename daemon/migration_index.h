// SPDX-License-Identifier: Apache-2.0
//
// What the registry keeps of every migration in memory. An unfinished one is kept whole. Of a
// finished one there are only the fields that are searched, some 500 bytes, and the rest is read
// from the journal when somebody asks: ten thousand whole records would be more than the rest of
// the daemon.
#ifndef REHOME_DAEMON_MIGRATION_INDEX_H_
#define REHOME_DAEMON_MIGRATION_INDEX_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "daemon/effects.h"
#include "daemon/interrupt.h"
#include "daemon/migration.h"

namespace rehome {

// An unfinished migration, or an INDETERMINATE one, which can still be resolved. Waiters share it,
// so that it outlives its place in the index.
struct ActiveMigration {
  Migration record;  // the latest that was published
  std::unique_ptr<Interrupt> interrupt;
  std::condition_variable changed;  // `record` has a new revision
  // What the next drive begins with (driver.h).
  Event first = Event::kAdmitted;
  Failure cause;
  Migration start;
  // An earlier daemon's, and nobody has found out yet how it stands.
  bool recovering = false;
  // Of an INDETERMINATE one: its escrow may be all that is left of the guest.
  std::unique_ptr<MigrationEffects> effects;
};

struct MigrationEntry {
  uint64_t number = 0;  // order of admission in this process
  std::string id;
  std::string vm_id;
  std::string request_id;
  MigrationState state = MigrationState::kPending;
  std::shared_ptr<ActiveMigration> active;  // null once it has ended for good
  // A finished one whose terminal record is not in the journal. Few: without a journal nothing new
  // is admitted.
  std::unique_ptr<const Migration> unjournalled;
};

// Not thread-safe: the registry's mutex guards it. Entries stay in place until they are pruned.
class MigrationIndex {
 public:
  // Keeps at most `max_finished` finished ones, like the journal.
  explicit MigrationIndex(size_t max_finished) : max_finished_(max_finished) {}

  // The newest from now on. With an active part, or finished; then an older one may be pruned.
  // REQUIRES: its id is not in the index.
  MigrationEntry* Add(const Migration& record, std::shared_ptr<ActiveMigration> active);
  // `last` is the terminal record; `journalled`: the journal has it. Frees the active part and may
  // prune an older entry. REQUIRES: entry->active is set.
  void Finish(MigrationEntry* entry, const Migration& last, bool journalled);

  MigrationEntry* Find(const std::string& id);
  const MigrationEntry* Find(const std::string& id) const;
  // The newest with this request_id. REQUIRES: not "".
  const MigrationEntry* FindRequest(const std::string& request_id) const;

  // Calls `visit` newest first until it returns false; starts after `after_id` ("" = at the newest;
  // an id that is not there any more was the oldest, so nothing follows).
  void Walk(const std::string& after_id,
            const std::function<bool(const MigrationEntry&)>& visit) const;

 private:
  void Prune();

  const size_t max_finished_;
  std::map<uint64_t, MigrationEntry> entries_;  // by number
  // Views of strings in the entries.
  std::unordered_map<std::string_view, MigrationEntry*> by_id_;
  std::unordered_map<std::string_view, MigrationEntry*> by_request_;
  uint64_t last_number_ = 0;
  size_t finished_ = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_MIGRATION_INDEX_H_
