// SPDX-License-Identifier: Apache-2.0
#include "daemon/sqlite_database.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Somebody may read the file with the sqlite3 shell; WAL readers do not block us, but opening and
// closing one can, for a moment.
constexpr int kBusyTimeoutMs = 1000;

// Page cache in KiB. The writer touches a handful of pages; SQLite's default is 2 MiB.
constexpr int kCacheKib = 256;

}  // namespace

absl::Status SqliteStatus(sqlite3* db, int code, const std::string& what) {
  const int primary = code & 0xff;
  const int error = db == nullptr ? 0 : sqlite3_system_errno(db);
  const std::string message = absl::StrCat(
      "journal: ", what, ": ", db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db));
  const bool no_space = primary == SQLITE_IOERR && (error == ENOSPC || error == EDQUOT);
  if (primary == SQLITE_FULL || no_space) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kJournalFull, message);
  }
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) {
    return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt, message);
  }
  return MakeStatus(absl::StatusCode::kInternal, reason::kJournalFailed, message);
}

absl::Status Statement::Prepare(sqlite3* db, const char* sql) {
  db_ = db;
  sqlite3_stmt* raw = nullptr;
  const int code = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
  statement_.reset(raw);
  return code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(db, code, sql);
}

absl::StatusOr<bool> Statement::Step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  absl::Status status = absl::OkStatus();
  if (code != SQLITE_DONE) status = SqliteStatus(db_, code, sqlite3_sql(statement_.get()));
  Reset();
  if (!status.ok()) return status;
  return false;
}

absl::StatusOr<Database> OpenDatabase(const std::string& path) {
  // SQLite would make the file readable for everybody; its -wal and -shm files take over this mode.
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return UnusablePath(path, errno);
  file.Reset();

  sqlite3* raw = nullptr;
  // NOMUTEX: the journal has its own mutex.
  const int code =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  Database db(raw);
  if (code != SQLITE_OK) return SqliteStatus(raw, code, path);
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  sqlite3_extended_result_codes(raw, 1);
  // Or closing would change the file of a newer daemon.
  sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  // Of this connection only: nothing is written.
  absl::Status status = Execute(raw, absl::StrCat("PRAGMA cache_size=-", kCacheKib));
  if (!status.ok()) return status;
  return db;
}

void AllowCheckpointOnClose(sqlite3* db) {
  sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
}

absl::Status Execute(sqlite3* db, const std::string& sql) {
  const int code = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(db, code, sql);
}

absl::StatusOr<int64_t> QueryInteger(sqlite3* db, const char* sql) {
  Statement statement;
  absl::Status status = statement.Prepare(db, sql);
  if (!status.ok()) return status;
  absl::StatusOr<bool> row = statement.Step();
  if (!row.ok()) return row.status();
  return *row ? statement.Integer(0) : 0;
}

absl::Status UnusablePath(const std::string& path, int error) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kStateDirectoryUnusable,
                    absl::StrCat(path, ": ", std::strerror(error)));
}

}  // namespace rehome
