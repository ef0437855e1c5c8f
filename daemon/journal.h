// SPDX-License-Identifier: Apache-2.0
//
// The daemon's memory across crashes: the latest record of each migration and every transition that
// led to it. Appended before the act it announces. Process crash is the fault model: nothing of a
// migration survives a host reboot (boot_id is in each record), so no fsync is waited for.
#ifndef REHOME_DAEMON_JOURNAL_H_
#define REHOME_DAEMON_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "daemon/migration_trace.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {

// Finished migrations kept; older ones are pruned. At 2.6 KB each, transitions
// and indexes included: 26 MB on disk.
inline constexpr size_t kMaxFinishedMigrations = 10000;

// Transitions kept of one migration: so many of the first, which say how it came to be what it is,
// and so many of the latest. Those between are dropped: an INDETERMINATE one can be resolved as
// often as a client likes, and each time adds some. Each has room for a whole drive
// (kMaxTransitions of machine.h), so that of most migrations everything is kept.
inline constexpr uint64_t kFirstTransitionsKept = 32;
inline constexpr uint64_t kLatestTransitionsKept = 32;

// What was wrong with a journal that was opened all the same, and what was done about it.
struct JournalRepair {
  // The end of the write-ahead log that is no whole transaction, cut off. Commits are appends that
  // had returned: none, unless something but a crash of the daemon has damaged the file.
  uint64_t torn_bytes = 0, torn_frames = 0, torn_commits = 0;
  // Where the database is kept that could not be used; "" if it could. Of its records so many are
  // in the new one, and so many not, if that could be counted.
  std::string set_aside;
  std::string damage;  // in SQLite's words
  uint64_t records_saved = 0;
  std::optional<uint64_t> records_lost;
  // Migrations whose record cannot be decoded, or has a value of a later version.
  std::vector<std::string> damaged_ids;
  // An earlier start found that records may be missing, and a daemon died before EndRepair(). What
  // it found is in its own log.
  bool of_earlier_start = false;

  bool none() const {
    return torn_bytes == 0 && set_aside.empty() && damaged_ids.empty() && !of_earlier_start;
  }
  // Whether there may have been migrations that nobody knows of any more. What they hold elsewhere
  // must then be left alone.
  bool may_miss_records() const {
    return torn_commits != 0 || !set_aside.empty() || !damaged_ids.empty() || of_earlier_start;
  }
  std::string Summary() const;  // one line for the log; "" if none()
};

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
  // journal. A record that cannot be decoded is put aside and left out; repair() says which.
  // DATA_LOSS / JOURNAL_CORRUPT, INTERNAL / JOURNAL_FAILED.
  virtual absl::Status Load(const std::function<void(const Migration&)>& visit) = 0;
  // The latest record of one. NOT_FOUND / MIGRATION_NOT_FOUND, and the errors of Load().
  virtual absl::StatusOr<Migration> Read(const std::string& id) = 0;
  // Keeps the trace of a migration, in the place of one that it has; it goes with the record.
  // Errors as Append(); a caller can go on without.
  virtual absl::Status PutTrace(const std::string& /*id*/, const MigrationTrace& /*trace*/) {
    return absl::OkStatus();
  }
  // NOT_FOUND / TRACE_NOT_FOUND, and the errors of Load(). A journal that keeps no traces has none.
  virtual absl::StatusOr<MigrationTrace> ReadTrace(const std::string& id) const {
    return MakeStatus(absl::StatusCode::kNotFound, reason::kTraceNotFound,
                      "no trace of migration " + id);
  }
  // What was wrong when it was opened, and, after Load(), with its records.
  virtual JournalRepair repair() const { return {}; }
  // The start has come to its end, and has taken account of repair(), which stays what it is here.
  // Until then each later start says that records may be missing, if this one did. INTERNAL /
  // JOURNAL_FAILED: the next start says so once more, which costs nothing.
  virtual absl::Status EndRepair() { return absl::OkStatus(); }
};

struct SqliteJournalOptions {
  size_t max_finished = kMaxFinishedMigrations;
  // Pages of 4 KiB that the database may have; 0 = what the disk has. Tests make a full disk of it.
  int max_pages = 0;
};

// SQLite in `directory`/journal.db, both made if missing (0700, 0600). A damaged one is repaired as
// far as it can be, and repair() says how; docs/journal.md has the rules.
// FAILED_PRECONDITION / STATE_DIRECTORY_IN_USE if another daemon has it (an exclusive lock on
// `directory`/rehomed.lock, held for the life of the object), FAILED_PRECONDITION /
// STATE_DIRECTORY_UNUSABLE, FAILED_PRECONDITION / JOURNAL_FROM_NEWER_VERSION or JOURNAL_FOREIGN
// (both left untouched), JOURNAL_FULL and JOURNAL_FAILED as above.
absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(
    const std::string& directory, const SqliteJournalOptions& options = {});

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_H_
