// SPDX-License-Identifier: Apache-2.0
//
// The daemon's memory across crashes: the latest record of each migration and every transition that
// led to it. Appended before the act it announces. Process crash is the fault model: nothing of a
// migration survives a host reboot (boot_id is in each record), so no fsync is waited for.
#ifndef REHOME_DAEMON_JOURNAL_H_
#define REHOME_DAEMON_JOURNAL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/migration.h"

namespace rehome {

// Finished migrations kept; older ones are pruned. At ~2 KiB each: 20 MiB.
inline constexpr size_t kMaxFinishedMigrations = 10000;

// Thread-safe.
class Journal {
 public:
  virtual ~Journal() = default;
  // Durable against a crash of this process once it returns. RESOURCE_EXHAUSTED / JOURNAL_FULL (no
  // space), INTERNAL / JOURNAL_FAILED.
  virtual absl::Status Append(const Migration& record) = 0;
  // The latest record of every migration, oldest first. DATA_LOSS / JOURNAL_CORRUPT.
  virtual absl::StatusOr<std::vector<Migration>> Load() = 0;
};

// SQLite in `directory`/journal.db. FAILED_PRECONDITION / STATE_DIRECTORY_IN_USE if another daemon
// has it (an exclusive lock held for the life of the object), FAILED_PRECONDITION /
// JOURNAL_FROM_NEWER_VERSION (left untouched), DATA_LOSS / JOURNAL_CORRUPT.
absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& directory);

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_H_
