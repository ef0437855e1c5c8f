// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/clock.h"
#include "daemon/journal.h"
#include "daemon/journal_codec.h"
#include "daemon/journal_repair.h"
#include "daemon/journal_schema.h"
#include "daemon/reasons.h"
#include "daemon/sqlite_database.h"
#include "daemon/trace_codec.h"
#include "daemon/wal_tail.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Free pages that a file may have before they are given back: what a prune frees is used again by
// the next migrations, so there are many only after a time with many more.
constexpr int64_t kMaxFreePages = 1024;

// The lock also keeps two daemons from fencing each other's migrations, so it comes before all
// else.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return UnusablePath(directory, errno);
  const std::string path = absl::StrCat(directory, "/rehomed.lock");
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return UnusablePath(path, errno);
  if (flock(lock.borrow().raw(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return UnusablePath(path, errno);
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kStateDirectoryInUse,
                    absl::StrCat("another rehomed uses ", directory));
}

class SqliteJournal : public Journal {
 public:
  SqliteJournal(std::string directory, UniqueFd lock, Database db, size_t max_finished,
                JournalRepair repair)
      : directory_(std::move(directory)),
        lock_(std::move(lock)),
        db_(std::move(db)),
        max_finished_(max_finished),
        repair_(std::move(repair)) {}

  absl::Status Prepare();

  absl::Status Append(const Migration& record) override;
  absl::Status Load(const std::function<void(const Migration&)>& visit) override;
  absl::StatusOr<Migration> Read(const std::string& id) override;
  absl::Status PutTrace(const std::string& id, const MigrationTrace& trace) override;
  absl::StatusOr<MigrationTrace> ReadTrace(const std::string& id) const override;
  JournalRepair repair() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return repair_;
  }
  absl::Status EndRepair() override { return UnmarkRepair(directory_); }

 private:
  absl::Status Write(const Migration& record, std::string_view bytes);
  absl::Status DropOldTransitions(const Migration& record);
  absl::Status Prune();

  mutable std::mutex mutex_;
  const std::string directory_;
  const UniqueFd lock_;
  const Database db_;
  const size_t max_finished_;
  JournalRepair repair_;
  // After db_: statements are finalized before it is closed.
  Statement begin_, commit_, rollback_;
  Statement put_, put_transition_, drop_old_transitions_;
  Statement count_finished_, oldest_finished_, drop_, drop_transitions_;
  Statement load_, read_;
  Statement put_trace_, drop_trace_;
  mutable Statement read_trace_;
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
      {&drop_old_transitions_,
       "DELETE FROM transitions WHERE id = ? AND revision > ? AND revision <= ?"},
      {&count_finished_, "SELECT count(*) FROM migrations WHERE finished"},
      {&oldest_finished_, "SELECT id FROM migrations WHERE finished ORDER BY seq LIMIT 1"},
      {&drop_, "DELETE FROM migrations WHERE id = ?"},
      {&drop_transitions_, "DELETE FROM transitions WHERE id = ?"},
      {&load_, "SELECT record, seq, id FROM migrations ORDER BY seq"},
      {&read_, "SELECT record FROM migrations WHERE id = ?"},
      {&put_trace_, "INSERT OR REPLACE INTO traces (id, trace) VALUES (?, ?)"},
      {&drop_trace_, "DELETE FROM traces WHERE id = ?"},
      {&read_trace_, "SELECT trace FROM traces WHERE id = ?"},
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
  if (status.ok()) status = DropOldTransitions(record);
  if (!status.ok() || !finished) return status;
  return Prune();
}

// The revision counts transitions, so that as a rule this drops one for each that is added.
absl::Status SqliteJournal::DropOldTransitions(const Migration& record) {
  if (record.revision <= kFirstTransitionsKept + kLatestTransitionsKept) return absl::OkStatus();
  drop_old_transitions_.BindText(1, record.id);
  drop_old_transitions_.BindInteger(2, static_cast<int64_t>(kFirstTransitionsKept));
  drop_old_transitions_.BindInteger(3,
                                    static_cast<int64_t>(record.revision - kLatestTransitionsKept));
  return drop_old_transitions_.Run();
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
    for (Statement* statement : {&drop_, &drop_transitions_, &drop_trace_}) {
      statement->BindText(1, id);
      absl::Status status = statement->Run();
      // A trace that is left over goes with the next start, and fails no record.
      if (!status.ok() && statement != &drop_trace_) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status SqliteJournal::Load(const std::function<void(const Migration&)>& visit) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<DamagedRecord> damaged;
  for (;;) {
    absl::StatusOr<bool> row = load_.Step();
    if (!row.ok()) return row.status();
    if (!*row) break;
    absl::StatusOr<Migration> record = DecodeRecord(load_.Bytes(0));
    const std::string_view id = load_.Bytes(2);
    if (record.ok() && record->id == id) {
      visit(*record);
    } else {
      damaged.push_back({.seq = load_.Integer(1),
                         .id = std::string(id),
                         .why = record.ok() ? "a record of another migration"
                                            : std::string(record.status().message())});
    }
  }
  if (damaged.empty()) return absl::OkStatus();
  if (absl::Status marked = MarkRepair(directory_); !marked.ok()) return marked;
  for (const DamagedRecord& record : damaged) repair_.damaged_ids.push_back(record.id);
  return MoveDamagedRecords(db_.get(), damaged);
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

absl::Status SqliteJournal::PutTrace(const std::string& id, const MigrationTrace& trace) {
  const std::string bytes = EncodeTrace(trace);
  std::lock_guard<std::mutex> lock(mutex_);
  put_trace_.BindText(1, id);
  put_trace_.BindBlob(2, bytes);
  return put_trace_.Run();
}

absl::StatusOr<MigrationTrace> SqliteJournal::ReadTrace(const std::string& id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  read_trace_.BindText(1, id);
  absl::StatusOr<bool> row = read_trace_.Step();
  if (!row.ok()) return row.status();
  if (!*row) return Journal::ReadTrace(id);
  absl::StatusOr<MigrationTrace> trace = DecodeTrace(read_trace_.Bytes(0));
  read_trace_.Reset();
  return trace;
}

// Opens the database with what it takes to trust it. DATA_LOSS: it has to be salvaged.
absl::StatusOr<Database> OpenTrusted(const std::string& path) {
  absl::StatusOr<Database> db = OpenDatabase(path);
  if (!db.ok()) return db.status();
  absl::Status status = CheckSchema(db->get());
  if (status.ok()) status = CheckIntegrity(db->get());
  if (!status.ok()) return status;
  return db;
}

// Gives the disk back what is free, all at once: the file is small, and this is done at a start.
absl::Status Compact(sqlite3* db) {
  absl::StatusOr<int64_t> free_pages = QueryInteger(db, "PRAGMA freelist_count");
  if (!free_pages.ok()) return free_pages.status();
  return *free_pages <= kMaxFreePages ? absl::OkStatus() : Execute(db, "VACUUM");
}

absl::StatusOr<Database> OpenAndRepair(const std::string& directory,
                                       const SqliteJournalOptions& options, JournalRepair* repair) {
  const std::string path = directory + "/journal.db";
  absl::Status status = FinishSalvage(directory);
  if (!status.ok()) return status;
  repair->of_earlier_start = IsRepairMarked(directory);
  // Before SQLite, which leaves the tail out without a word.
  const WalTail tail = InspectWal(path + "-wal");
  absl::StatusOr<Database> db = OpenTrusted(path);
  if (absl::IsDataLoss(db.status())) {
    repair->damage = std::string(db.status().message());
    status = CheckVersionInHeader(path);
    if (status.ok()) status = SalvageJournal(directory, repair);
    if (!status.ok()) return status;
    db = OpenTrusted(path);
  }
  if (!db.ok()) return db.status();
  // From here on the tail may go.
  if (tail.commits != 0) status = MarkRepair(directory);
  if (!status.ok()) return status;
  AllowCheckpointOnClose(db->get());
  repair->torn_bytes = tail.bytes;
  repair->torn_frames = tail.frames;
  repair->torn_commits = tail.commits;
  status = ConfigureJournal(db->get(), options.max_pages);
  if (status.ok()) status = CreateOrUpgradeSchema(db->get());
  // The next start must not find, and report, the same tail. Behind a transaction: until one ends,
  // SQLite keeps a new database locked that was changed to have a log.
  if (status.ok() && !tail.none()) status = Execute(db->get(), "PRAGMA wal_checkpoint(TRUNCATE)");
  if (status.ok()) status = Compact(db->get());
  if (!status.ok()) return status;
  return db;
}

}  // namespace

std::string JournalRepair::Summary() const {
  std::string text;
  if (torn_bytes != 0) {
    absl::StrAppend(&text, "cut a torn tail of ", torn_bytes, " bytes, ", torn_frames,
                    " whole pages and ", torn_commits, " transactions among them; ");
  }
  if (!set_aside.empty()) {
    absl::StrAppend(&text, "the database was damaged (", damage, ") and is kept as ", set_aside,
                    "; ", records_saved, " records were saved, ",
                    records_lost.has_value() ? absl::StrCat(*records_lost) : "an unknown number",
                    " lost; ");
  }
  if (!damaged_ids.empty()) {
    absl::StrAppend(&text, damaged_ids.size(), " records cannot be read and are in the table ",
                    "\"damaged\", the first of them ", damaged_ids.front(), "; ");
  }
  if (of_earlier_start) {
    absl::StrAppend(&text, "records may be missing since an earlier start, which did not come to ",
                    "its end and has the details in its log; ");
  }
  if (!text.empty()) text.resize(text.size() - 2);
  return text;
}

absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& directory,
                                                           const SqliteJournalOptions& options) {
  JournalRepair found;
  absl::StatusOr<UniqueFd> lock = LockDirectory(directory);
  if (!lock.ok()) return lock.status();
  absl::StatusOr<Database> db = OpenAndRepair(directory, options, &found);
  if (!db.ok()) return db.status();
  auto journal = std::make_unique<SqliteJournal>(directory, *std::move(lock), *std::move(db),
                                                 options.max_finished, std::move(found));
  absl::Status status = journal->Prepare();
  if (!status.ok()) return status;
  return journal;
}

}  // namespace rehome
