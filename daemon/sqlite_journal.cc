// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/clock.h"
#include "daemon/journal.h"
#include "daemon/journal_codec.h"
#include "daemon/reasons.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// PRAGMA user_version. 1: the tables below.
constexpr int kSchemaVersion = 1;
constexpr char kSchema[] = R"sql(
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
PRAGMA user_version = 1;
)sql";

// Somebody may read the file with the sqlite3 shell; WAL readers do not block us, but opening and
// closing one can, for a moment.
constexpr int kBusyTimeoutMs = 1000;

// Page cache in KiB. The writer touches a handful of pages; SQLite's default is 2 MiB.
constexpr int kCacheKib = 256;

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

struct CloseDatabase {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;

// A prepared statement: bind in order, then Run() or Step(); Reset() makes it ready again.
class Statement {
 public:
  absl::Status Prepare(sqlite3* db, const char* sql) {
    db_ = db;
    sqlite3_stmt* raw = nullptr;
    const int code = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
    statement_.reset(raw);
    return code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(db, code, sql);
  }
  // Bound bytes must live until Reset().
  void BindText(int index, std::string_view text) {
    sqlite3_bind_text64(statement_.get(), index, text.data(), text.size(), SQLITE_STATIC,
                        SQLITE_UTF8);
  }
  void BindBlob(int index, std::string_view bytes) {
    sqlite3_bind_blob64(statement_.get(), index, bytes.data(), bytes.size(), SQLITE_STATIC);
  }
  void BindInteger(int index, int64_t value) { sqlite3_bind_int64(statement_.get(), index, value); }
  // True: a row is there. Resets itself when it ends or fails.
  absl::StatusOr<bool> Step() {
    const int code = sqlite3_step(statement_.get());
    if (code == SQLITE_ROW) return true;
    absl::Status status = absl::OkStatus();
    if (code != SQLITE_DONE) status = SqliteStatus(db_, code, sqlite3_sql(statement_.get()));
    Reset();
    if (!status.ok()) return status;
    return false;
  }
  absl::Status Run() { return Step().status(); }
  int64_t Integer(int column) { return sqlite3_column_int64(statement_.get(), column); }
  std::string_view Bytes(int column) {
    const void* data = sqlite3_column_blob(statement_.get(), column);
    const size_t size = sqlite3_column_bytes(statement_.get(), column);
    return {static_cast<const char*>(data), size};
  }
  void Reset() {
    sqlite3_reset(statement_.get());
    sqlite3_clear_bindings(statement_.get());
  }

 private:
  sqlite3* db_ = nullptr;
  std::unique_ptr<sqlite3_stmt, FinalizeStatement> statement_;
};

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

absl::Status Unusable(const std::string& path, int error) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kStateDirectoryUnusable,
                    absl::StrCat(path, ": ", std::strerror(error)));
}

// The lock also keeps two daemons from fencing each other's migrations, so it comes before all
// else.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return Unusable(directory, errno);
  const std::string path = absl::StrCat(directory, "/rehomed.lock");
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return Unusable(path, errno);
  if (flock(lock.borrow().raw(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return Unusable(path, errno);
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kStateDirectoryInUse,
                    absl::StrCat("another rehomed uses ", directory));
}

absl::StatusOr<Database> OpenDatabase(const std::string& path) {
  // SQLite would make the file readable for everybody; its -wal and -shm files take over this mode.
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return Unusable(path, errno);
  file.Reset();

  sqlite3* raw = nullptr;
  // NOMUTEX: the journal has its own mutex.
  const int code =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  Database db(raw);
  if (code != SQLITE_OK) return SqliteStatus(raw, code, path);
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  sqlite3_extended_result_codes(raw, 1);
  // Closing folds the WAL in, which would change the file of a newer daemon; CheckSchema() allows
  // it.
  sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  // Of this connection only: nothing is written.
  absl::Status status = Execute(raw, absl::StrCat("PRAGMA cache_size=-", kCacheKib));
  if (!status.ok()) return status;
  return db;
}

// Refuses what is not ours. Until it has agreed nothing is written, not even by closing.
absl::Status CheckSchema(sqlite3* db) {
  absl::StatusOr<int64_t> version = QueryInteger(db, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  if (*version > kSchemaVersion) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kJournalFromNewerVersion,
                      absl::StrCat("journal.db has schema version ", *version,
                                   ", this rehomed knows up to ", kSchemaVersion));
  }
  absl::StatusOr<int64_t> tables = QueryInteger(db, "SELECT count(*) FROM sqlite_schema");
  if (!tables.ok()) return tables.status();
  if (*version < 0 || (*version == 0 && *tables > 0)) {
    return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt,
                      "journal.db is a database, but no journal of rehomed");
  }
  sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  return absl::OkStatus();
}

absl::Status CheckIntegrity(sqlite3* db) {
  Statement check;
  absl::Status status = check.Prepare(db, "PRAGMA quick_check(1)");
  if (!status.ok()) return status;
  absl::StatusOr<bool> row = check.Step();
  if (!row.ok()) return row.status();
  const std::string answer = *row ? std::string(check.Bytes(0)) : "no answer";
  if (answer == "ok") return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt,
                    absl::StrCat("journal.db: ", answer));
}

// WAL: a commit is one appended write, whole or ignored after a crash, and readers do not block it.
// synchronous=OFF: what write(2) took survives the crash of this process, which is the fault model;
// waiting for the disk would put its stalls between the steps of a migration for nothing, because a
// host that goes down takes the guests with it.
absl::Status Configure(sqlite3* db, const SqliteJournalOptions& options) {
  absl::Status status = Execute(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
  if (!status.ok() || options.max_pages == 0) return status;
  return Execute(db, absl::StrCat("PRAGMA max_page_count=", options.max_pages));
}

// One transaction, so that a crash in the middle leaves an empty file and not half a schema.
absl::Status CreateSchema(sqlite3* db) {
  absl::StatusOr<int64_t> version = QueryInteger(db, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  if (*version == kSchemaVersion) return absl::OkStatus();
  return Execute(db, absl::StrCat("BEGIN IMMEDIATE;", kSchema, "COMMIT"));
}

class SqliteJournal : public Journal {
 public:
  SqliteJournal(UniqueFd lock, Database db, size_t max_finished)
      : lock_(std::move(lock)), db_(std::move(db)), max_finished_(max_finished) {}

  absl::Status Prepare();

  absl::Status Append(const Migration& record) override;
  absl::Status Load(const std::function<void(const Migration&)>& visit) override;
  absl::StatusOr<Migration> Read(const std::string& id) override;

 private:
  absl::Status Write(const Migration& record, std::string_view bytes);
  absl::Status Prune();

  std::mutex mutex_;
  const UniqueFd lock_;
  const Database db_;
  const size_t max_finished_;
  // After db_: statements are finalized before it is closed.
  Statement begin_, commit_, rollback_;
  Statement put_, put_transition_;
  Statement count_finished_, oldest_finished_, drop_, drop_transitions_;
  Statement load_, read_;
};

absl::Status SqliteJournal::Prepare() {
  const std::pair<Statement*, const char*> statements[] = {
      {&begin_, "BEGIN IMMEDIATE"},
      {&commit_, "COMMIT"},
      {&rollback_, "ROLLBACK"},
      {&put_,
       "INSERT INTO migrations (id, finished, record) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
       "SET finished = excluded.finished, record = excluded.record"},
      {&put_transition_, "INSERT INTO transitions VALUES (?, ?, ?, ?, ?)"},
      {&count_finished_, "SELECT count(*) FROM migrations WHERE finished"},
      {&oldest_finished_, "SELECT id FROM migrations WHERE finished ORDER BY seq LIMIT 1"},
      {&drop_, "DELETE FROM migrations WHERE id = ?"},
      {&drop_transitions_, "DELETE FROM transitions WHERE id = ?"},
      {&load_, "SELECT record FROM migrations ORDER BY seq"},
      {&read_, "SELECT record FROM migrations WHERE id = ?"},
  };
  for (const auto& [statement, sql] : statements) {
    absl::Status status = statement->Prepare(db_.get(), sql);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SqliteJournal::Append(const Migration& record) {
  const std::string bytes = EncodeRecord(record);
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = begin_.Run();
  if (!status.ok()) return status;
  status = Write(record, bytes);
  if (status.ok()) status = commit_.Run();
  // Some errors have rolled back already; a second ROLLBACK then fails, which changes nothing.
  if (!status.ok()) rollback_.Run().IgnoreError();
  return status;
}

absl::Status SqliteJournal::Write(const Migration& record, std::string_view bytes) {
  // An INDETERMINATE one can still be resolved, and is not pruned.
  const bool finished = record.step == Step::kDone;
  put_.BindText(1, record.id);
  put_.BindInteger(2, finished ? 1 : 0);
  put_.BindBlob(3, bytes);
  absl::Status status = put_.Run();
  if (!status.ok()) return status;

  put_transition_.BindText(1, record.id);
  put_transition_.BindInteger(2, static_cast<int64_t>(record.revision));
  put_transition_.BindText(3, StepName(record.step));
  put_transition_.BindText(4, MigrationStateName(record.state));
  put_transition_.BindInteger(5, UnixNanos());
  status = put_transition_.Run();
  if (!status.ok() || !finished) return status;
  return Prune();
}

absl::Status SqliteJournal::Prune() {
  absl::StatusOr<bool> row = count_finished_.Step();
  if (!row.ok()) return row.status();
  int64_t surplus = count_finished_.Integer(0) - static_cast<int64_t>(max_finished_);
  count_finished_.Reset();
  for (; surplus > 0; --surplus) {
    row = oldest_finished_.Step();
    if (!row.ok()) return row.status();
    const std::string id(oldest_finished_.Bytes(0));
    oldest_finished_.Reset();
    for (Statement* statement : {&drop_, &drop_transitions_}) {
      statement->BindText(1, id);
      absl::Status status = statement->Run();
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status SqliteJournal::Load(const std::function<void(const Migration&)>& visit) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (;;) {
    absl::StatusOr<bool> row = load_.Step();
    if (!row.ok()) return row.status();
    if (!*row) return absl::OkStatus();
    absl::StatusOr<Migration> record = DecodeRecord(load_.Bytes(0));
    if (!record.ok()) {
      load_.Reset();
      return record.status();
    }
    visit(*record);
  }
}

absl::StatusOr<Migration> SqliteJournal::Read(const std::string& id) {
  std::lock_guard<std::mutex> lock(mutex_);
  read_.BindText(1, id);
  absl::StatusOr<bool> row = read_.Step();
  if (!row.ok()) return row.status();
  if (!*row) {
    return MakeStatus(absl::StatusCode::kNotFound, reason::kMigrationNotFound,
                      absl::StrCat("no migration ", id));
  }
  absl::StatusOr<Migration> record = DecodeRecord(read_.Bytes(0));
  read_.Reset();
  return record;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& directory,
                                                           const SqliteJournalOptions& options) {
  absl::StatusOr<UniqueFd> lock = LockDirectory(directory);
  if (!lock.ok()) return lock.status();
  absl::StatusOr<Database> db = OpenDatabase(absl::StrCat(directory, "/journal.db"));
  if (!db.ok()) return db.status();
  absl::Status status = CheckSchema(db->get());
  if (status.ok()) status = CheckIntegrity(db->get());
  if (status.ok()) status = Configure(db->get(), options);
  if (status.ok()) status = CreateSchema(db->get());
  if (!status.ok()) return status;
  auto journal =
      std::make_unique<SqliteJournal>(*std::move(lock), *std::move(db), options.max_finished);
  status = journal->Prepare();
  if (!status.ok()) return status;
  return journal;
}

}  // namespace rehome
