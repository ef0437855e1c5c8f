// SPDX-License-Identifier: Apache-2.0
//
// The daemon's memory across crashes: the latest record of each migration and every transition that
// led to it. Appended before the act it announces. Process crash is the fault model: nothing of a
// migration survives a host reboot (boot_id is in each record), so no fsync is waited for.
#ifndef REHOME_DAEMON_JOURNAL_H_
#define REHOME_DAEMON_JOURNAL_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/migration.h"

namespace rehome {

// Finished migrations kept; older ones are pruned. At 2.6 KB each, transitions
// and indexes included: 26 MB on disk.
inline constexpr size_t kMaxFinishedMigrations = 10000;

// Thread-safe.
class Journal {
 public:
  virtual ~Journal() = default;
  // Durable against a crash of this process once it returns. A failed append changes nothing, and
  // the next may succeed. RESOURCE_EXHAUSTED / JOURNAL_FULL (no space), INTERNAL / JOURNAL_FAILED
  // (also for a revision that is on record already), DATA_LOSS / JOURNAL_CORRUPT.
  // With the record of a terminal state the oldest finished migrations beyond the maximum are
  // pruned.
  virtual absl::Status Append(const Migration& record) = 0;
  // Calls `visit` with the latest record of every migration, oldest (first appended) first; one at
  // a time, so that ten thousand of them do not stand in memory together. `visit` must not call the
  // journal. DATA_LOSS / JOURNAL_CORRUPT, INTERNAL / JOURNAL_FAILED.
  virtual absl::Status Load(const std::function<void(const Migration&)>& visit) = 0;
  // The latest record of one. NOT_FOUND / MIGRATION_NOT_FOUND, and the errors of Load().
  virtual absl::StatusOr<Migration> Read(const std::string& id) = 0;
};

struct SqliteJournalOptions {
  size_t max_finished = kMaxFinishedMigrations;
  // Pages of 4 KiB that the database may have; 0 = what the disk has. Tests make a full disk of it.
  int max_pages = 0;
};

// SQLite in `directory`/journal.db, both made if missing (0700, 0600). FAILED_PRECONDITION /
// STATE_DIRECTORY_IN_USE if another daemon has it (an exclusive lock on `directory`/rehomed.lock,
// held for the life of the object), FAILED_PRECONDITION / STATE_DIRECTORY_UNUSABLE,
// FAILED_PRECONDITION / JOURNAL_FROM_NEWER_VERSION (left untouched), DATA_LOSS / JOURNAL_CORRUPT,
// JOURNAL_FULL and JOURNAL_FAILED as above.
absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(
    const std::string& directory, const SqliteJournalOptions& options = {});

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_H_
