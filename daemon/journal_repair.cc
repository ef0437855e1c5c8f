// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal_repair.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/clock.h"
#include "daemon/journal_schema.h"
#include "daemon/reasons.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

namespace fs = std::filesystem;

constexpr char kLive[] = "/journal.db";
// While it is being written, and once it is complete.
constexpr char kPartial[] = "/journal.db.partial";
constexpr char kSalvaged[] = "/journal.db.salvaged";
constexpr const char* kCompanions[] = {"-wal", "-shm"};
constexpr char kMark[] = "/journal.db.may-miss-records";

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

void RemoveDatabase(const std::string& path) {
  std::error_code ignored;
  fs::remove(path, ignored);
  for (const char* companion : kCompanions) fs::remove(path + companion, ignored);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : UnusablePath(to, errno);
}

// The first name that is free, also of a log alone, else that of the oldest, which goes.
std::string SetAsidePath(const std::string& directory) {
  std::string oldest;
  for (int number = 1; number <= kMaxSetAsideJournals; ++number) {
    const std::string path = absl::StrCat(directory, kLive, ".damaged-", number);
    if (!Exists(path) && !Exists(path + "-wal")) return path;
    std::error_code error;
    if (oldest.empty() || fs::last_write_time(path, error) < fs::last_write_time(oldest, error)) {
      oldest = path;
    }
  }
  RemoveDatabase(oldest);
  return oldest;
}

// The log goes with its database, under the name by which SQLite finds it. It goes last: a log
// without its database is nothing, but a database with another one's log would be rewritten by it.
// A log that has lost its database is kept all the same: it may be all that is left of the records.
absl::Status SetAside(const std::string& directory, std::string* path) {
  const std::string live = directory + kLive;
  const bool has_database = Exists(live), has_log = Exists(live + "-wal");
  if (has_database || has_log) *path = SetAsidePath(directory);
  if (has_database) {
    if (absl::Status status = Rename(live, *path); !status.ok()) return status;
  }
  if (has_log) {
    absl::Status status = Rename(live + "-wal", *path + "-wal");
    if (!status.ok()) return status;
  }
  RemoveDatabase(live);
  return Rename(directory + kSalvaged, live);
}

// ---- copying ----

class Salvage {
 public:
  Salvage(sqlite3* from, sqlite3* to) : from_(from), to_(to) {}

  // Errors are of `to`; what cannot be read of `from` is left out.
  absl::Status Run(JournalRepair* repair) {
    absl::Status status = Prepare();
    if (!status.ok()) return status;
    status = Execute(to_, "BEGIN IMMEDIATE");
    if (status.ok()) status = CopyMigrations(repair);
    if (status.ok()) status = Execute(to_, "COMMIT");
    return status;
  }

 private:
  absl::Status Prepare() {
    absl::Status status = put_.Prepare(
        to_, "INSERT OR IGNORE INTO migrations (id, finished, record) VALUES (?, ?, ?)");
    if (!status.ok()) return status;
    return put_transition_.Prepare(to_, "INSERT OR IGNORE INTO transitions VALUES (?, ?, ?, ?, ?)");
  }

  // A lookup per row: a scan ends at the first page that is damaged, a lookup finds its way to all
  // others. A row that fails is skipped by its number. The order stays, the numbers do not: one
  // that is damaged may be the last that there is.
  absl::Status CopyMigrations(JournalRepair* repair) {
    Statement next;
    if (!next.Prepare(from_,
                      "SELECT seq, id, finished, record FROM migrations WHERE seq >= ? ORDER BY "
                      "seq LIMIT 1")
             .ok()) {
      return absl::OkStatus();
    }
    const int64_t last = LastSeq();
    uint64_t unreadable = 0;
    for (int64_t seq = 0; unreadable < kMaxUnreadableRows; ++seq) {
      next.BindInteger(1, seq);
      absl::StatusOr<bool> row = next.Step();
      if (row.ok() && !*row) break;
      // A page in the wrong place answers with a row that has been passed, over and over.
      if (!row.ok() || next.Integer(0) < seq) {
        next.Reset();
        if (seq >= last) break;
        ++unreadable;
        continue;
      }
      seq = next.Integer(0);
      absl::Status status = CopyRow(next, repair);
      next.Reset();
      if (!status.ok()) return status;
      if (seq == INT64_MAX) break;
    }
    absl::StatusOr<int64_t> all = QueryInteger(from_, "SELECT count(*) FROM migrations");
    if (all.ok() && static_cast<uint64_t>(*all) >= repair->records_saved) {
      repair->records_lost = static_cast<uint64_t>(*all) - repair->records_saved;
    }
    return absl::OkStatus();
  }

  int64_t LastSeq() {
    for (const char* sql : {"SELECT max(seq) FROM migrations",
                            "SELECT seq FROM sqlite_sequence WHERE name = 'migrations'"}) {
      absl::StatusOr<int64_t> last = QueryInteger(from_, sql);
      if (last.ok() && *last > 0) return *last;
    }
    return 0;
  }

  // Not one whose migration has been saved: a page can be there twice.
  absl::Status CopyRow(Statement& row, JournalRepair* repair) {
    const std::string id(row.Bytes(1)), record(row.Bytes(3));
    put_.BindText(1, id);
    put_.BindInteger(2, row.Integer(2) != 0 ? 1 : 0);
    put_.BindBlob(3, record);
    absl::Status status = put_.Run();
    if (!status.ok() || sqlite3_changes(to_) == 0) return status;
    ++repair->records_saved;
    return CopyTransitions(id);
  }

  absl::Status CopyTransitions(const std::string& id) {
    Statement transitions;
    if (!transitions
             .Prepare(from_,
                      "SELECT revision, step, state, time_unix_ns FROM transitions WHERE id = ? "
                      "ORDER BY revision")
             .ok()) {
      return absl::OkStatus();
    }
    transitions.BindText(1, id);
    for (;;) {
      absl::StatusOr<bool> row = transitions.Step();
      if (!row.ok() || !*row) return absl::OkStatus();
      const std::string step(transitions.Bytes(1)), state(transitions.Bytes(2));
      put_transition_.BindText(1, id);
      put_transition_.BindInteger(2, transitions.Integer(0));
      put_transition_.BindText(3, step);
      put_transition_.BindText(4, state);
      put_transition_.BindInteger(5, transitions.Integer(3));
      if (absl::Status status = put_transition_.Run(); !status.ok()) return status;
    }
  }

  sqlite3* const from_;
  sqlite3* const to_;
  Statement put_, put_transition_;
};

// Nothing is read if SQLite cannot open it at all.
absl::Status CopyReadable(const std::string& from_path, sqlite3* to, JournalRepair* repair) {
  absl::StatusOr<Database> from = OpenDatabase(from_path);
  if (!from.ok()) return absl::OkStatus();
  return Salvage(from->get(), to).Run(repair);
}

}  // namespace

absl::Status MarkRepair(const std::string& directory) {
  const std::string path = directory + kMark;
  const UniqueFd mark(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  return mark.valid() ? absl::OkStatus() : UnusablePath(path, errno);
}

bool IsRepairMarked(const std::string& directory) {
  return access((directory + kMark).c_str(), F_OK) == 0 || errno != ENOENT;
}

absl::Status UnmarkRepair(const std::string& directory) {
  const std::string path = directory + kMark;
  if (std::remove(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInternal, reason::kJournalFailed,
                    absl::StrCat(path, ": ", std::strerror(errno)));
}

absl::Status SalvageJournal(const std::string& directory, JournalRepair* repair) {
  if (absl::Status marked = MarkRepair(directory); !marked.ok()) return marked;
  const std::string partial = directory + kPartial;
  RemoveDatabase(partial);
  {
    absl::StatusOr<Database> to = OpenDatabase(partial);
    if (!to.ok()) return to.status();
    // No log of its own: the file alone has to be complete when it is renamed.
    absl::Status status = Execute(to->get(), "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF");
    if (status.ok()) status = CreateOrUpgradeSchema(to->get());
    if (status.ok()) status = CopyReadable(directory + kLive, to->get(), repair);
    if (!status.ok()) return status;
  }
  absl::Status status = Rename(partial, directory + kSalvaged);
  if (!status.ok()) return status;
  return SetAside(directory, &repair->set_aside);
}

absl::Status FinishSalvage(const std::string& directory) {
  if (!Exists(directory + kSalvaged)) return absl::OkStatus();
  if (absl::Status marked = MarkRepair(directory); !marked.ok()) return marked;
  std::string ignored;
  return SetAside(directory, &ignored);
}

absl::Status MoveDamagedRecords(sqlite3* db, const std::vector<DamagedRecord>& records) {
  Statement move, drop, drop_transitions;
  absl::Status status = move.Prepare(db,
                                     "INSERT INTO damaged (id, record, why, time_unix_ns) SELECT "
                                     "id, record, ?, ? FROM migrations WHERE seq = ?");
  if (status.ok()) status = drop.Prepare(db, "DELETE FROM migrations WHERE seq = ?");
  if (status.ok()) {
    status = drop_transitions.Prepare(db, "DELETE FROM transitions WHERE id = ?");
  }
  if (status.ok()) status = Execute(db, "BEGIN IMMEDIATE");
  if (!status.ok()) return status;
  for (const DamagedRecord& record : records) {
    move.BindText(1, record.why);
    move.BindInteger(2, UnixNanos());
    move.BindInteger(3, record.seq);
    status = move.Run();
    drop.BindInteger(1, record.seq);
    if (status.ok()) status = drop.Run();
    drop_transitions.BindText(1, record.id);
    if (status.ok()) status = drop_transitions.Run();
    if (!status.ok()) break;
  }
  if (status.ok()) {
    status = Execute(db, absl::StrCat("DELETE FROM damaged WHERE seq <= (SELECT max(seq) FROM "
                                      "damaged) - ",
                                      kMaxDamagedRecords, "; COMMIT"));
  }
  if (!status.ok()) Execute(db, "ROLLBACK").IgnoreError();
  return status;
}

}  // namespace rehome
