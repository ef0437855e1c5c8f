// SPDX-License-Identifier: Apache-2.0
//
// The journal's tables and their versions. docs/journal.md describes them for people.
#ifndef REHOME_DAEMON_JOURNAL_SCHEMA_H_
#define REHOME_DAEMON_JOURNAL_SCHEMA_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "daemon/sqlite_database.h"

namespace rehome {

// PRAGMA user_version. 1: migrations, transitions. 2: damaged, and records with steps that a reader
// of 1 does not know.
inline constexpr int kJournalSchemaVersion = 2;

// The log is folded into the database once it has so many pages of 4 KiB, and cut back to this size
// if a reader has kept it longer: large enough that folding is rare (each is a rewrite of the
// pages that changed), small enough to be read at a start in milliseconds.
inline constexpr int kWalPages = 256;

// What `seq` stays below: a number a nanosecond for 146 years. SQLite gives out none behind
// INT64_MAX.
inline constexpr int64_t kMaxJournalSeq = int64_t{1} << 62;

// Refuses what is not ours, without writing: FAILED_PRECONDITION / JOURNAL_FROM_NEWER_VERSION,
// FAILED_PRECONDITION / JOURNAL_FOREIGN (a database, but no journal), DATA_LOSS / JOURNAL_CORRUPT.
absl::Status CheckSchema(sqlite3* db);
// As far as the header of a file at `path` says that SQLite cannot open: OK or
// JOURNAL_FROM_NEWER_VERSION.
absl::Status CheckVersionInHeader(const std::string& path);
// DATA_LOSS / JOURNAL_CORRUPT with SQLite's words.
absl::Status CheckIntegrity(sqlite3* db);

// How a journal is written. `max_pages`: 0 for as many as the disk has.
absl::Status ConfigureJournal(sqlite3* db, int max_pages);
// Makes the tables, or brings those of an older version up to this one. Each in one transaction, so
// that a crash in the middle leaves the older version or none.
absl::Status CreateOrUpgradeSchema(sqlite3* db);

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_SCHEMA_H_
