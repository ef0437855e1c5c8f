// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal_schema.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr char kTables[] = R"sql(
CREATE TABLE migrations (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of admission
  id TEXT NOT NULL UNIQUE,
  finished INTEGER NOT NULL,
  record BLOB NOT NULL                    -- rehome.journal.v1.Record
) STRICT;
CREATE INDEX finished_by_age ON migrations (seq) WHERE finished;
CREATE TABLE transitions (
  id TEXT NOT NULL,
  revision INTEGER NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL,
  time_unix_ns INTEGER NOT NULL,
  PRIMARY KEY (id, revision)
) STRICT, WITHOUT ROWID;
)sql";

// Of no version: whoever does not know it loses nothing, so an older daemon may have the journal
// back. Rows without a migration are what that one leaves; they go here.
constexpr char kTraces[] = R"sql(
CREATE TABLE IF NOT EXISTS traces (
  id TEXT PRIMARY KEY,
  trace BLOB NOT NULL                     -- rehome.journal.v1.Trace
) STRICT, WITHOUT ROWID;
DELETE FROM traces WHERE id NOT IN (SELECT id FROM migrations);
)sql";

constexpr char kFromVersion1[] = R"sql(
CREATE TABLE damaged (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of being found
  id TEXT NOT NULL,
  record BLOB NOT NULL,                   -- what stood in its place
  why TEXT NOT NULL,
  time_unix_ns INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 2;
)sql";

// Of a database file: its magic, and where user_version is in it.
constexpr char kMagic[] = "SQLite format 3";
constexpr size_t kVersionOffset = 60;
constexpr size_t kHeaderBytes = 100;

absl::Status Newer(int64_t version) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kJournalFromNewerVersion,
                    absl::StrCat("journal.db has schema version ", version,
                                 ", this rehomed knows up to ", kJournalSchemaVersion));
}

absl::Status Foreign() {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kJournalForeign,
                    "journal.db is a database, but no journal of rehomed");
}

absl::Status Corrupt(const std::string& what) {
  return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt,
                    absl::StrCat("journal.db: ", what));
}

// Nothing can be added behind the largest number that there is, so one that nobody can have reached
// is damage.
absl::Status CheckNumbers(sqlite3* db) {
  for (const std::string table : {"migrations", "damaged", "sqlite_sequence"}) {
    const std::string there = "SELECT count(*) FROM sqlite_schema WHERE name = '" + table + "'";
    absl::StatusOr<int64_t> number = QueryInteger(db, there.c_str());
    if (number.ok() && *number != 0) {
      number = QueryInteger(db, ("SELECT max(seq) FROM " + table).c_str());
    }
    if (!number.ok()) return number.status();
    if (*number > kMaxJournalSeq) return Corrupt(table + " has counted too far");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSchema(sqlite3* db) {
  absl::StatusOr<int64_t> version = QueryInteger(db, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  if (*version > kJournalSchemaVersion) return Newer(*version);
  absl::StatusOr<int64_t> tables = QueryInteger(db, "SELECT count(*) FROM sqlite_schema");
  if (!tables.ok()) return tables.status();
  if (*version == 0 && *tables == 0) return absl::OkStatus();
  if (*version <= 0) return Foreign();
  // Others number their versions too.
  for (const char* sql : {"SELECT seq, id, finished, record FROM migrations",
                          "SELECT id, revision, step, state, time_unix_ns FROM transitions"}) {
    Statement ours;
    const absl::Status status = ours.Prepare(db, sql);
    if (absl::IsInternal(status)) {
      // Damage can take our tables away too.
      const absl::Status sound = CheckIntegrity(db);
      return sound.ok() ? Foreign() : sound;
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckVersionInHeader(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char header[kHeaderBytes] = {};
  if (!file || pread(file.borrow().raw(), header, sizeof(header), 0) != sizeof(header) ||
      std::memcmp(header, kMagic, sizeof(kMagic)) != 0) {
    return absl::OkStatus();
  }
  int32_t version = 0;
  std::memcpy(&version, header + kVersionOffset, sizeof(version));
  version = static_cast<int32_t>(__builtin_bswap32(static_cast<uint32_t>(version)));
  return version > kJournalSchemaVersion ? Newer(version) : absl::OkStatus();
}

absl::Status CheckIntegrity(sqlite3* db) {
  Statement check;
  // Not quick_check, which does not look whether an index has the rows of its table: that costs 5
  // ms more with 10,000 of them, and without it a journal passes that no record can be added to.
  absl::Status status = check.Prepare(db, "PRAGMA integrity_check(1)");
  if (!status.ok()) return status;
  absl::StatusOr<bool> row = check.Step();
  if (!row.ok()) return row.status();
  const std::string answer = *row ? std::string(check.Bytes(0)) : "no answer";
  return answer == "ok" ? CheckNumbers(db) : Corrupt(answer);
}

// WAL: a commit is one appended write, whole or ignored after a crash, and readers do not block it.
// synchronous=OFF: what write(2) took survives the crash of this process, which is the fault model;
// waiting for the disk would put its stalls between the steps of a migration for nothing, because a
// host that goes down takes the guests with it.
absl::Status ConfigureJournal(sqlite3* db, int max_pages) {
  absl::Status status =
      Execute(db, absl::StrCat("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA "
                               "wal_autocheckpoint=",
                               kWalPages, "; PRAGMA journal_size_limit=", kWalPages * 4096));
  if (!status.ok() || max_pages == 0) return status;
  return Execute(db, absl::StrCat("PRAGMA max_page_count=", max_pages));
}

absl::Status CreateOrUpgradeSchema(sqlite3* db) {
  absl::StatusOr<int64_t> version = QueryInteger(db, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  const char* tables = *version == 0 ? kTables : "";
  const char* upgrade = *version == kJournalSchemaVersion ? "" : kFromVersion1;
  return Execute(db, absl::StrCat("BEGIN IMMEDIATE;", tables, upgrade, kTraces, "COMMIT"));
}

}  // namespace rehome
