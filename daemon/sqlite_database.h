// SPDX-License-Identifier: Apache-2.0
//
// SQLite as the journal uses it: owners, and errors as absl::Status with the journal's reasons.
#ifndef REHOME_DAEMON_SQLITE_DATABASE_H_
#define REHOME_DAEMON_SQLITE_DATABASE_H_

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace rehome {

// RESOURCE_EXHAUSTED / JOURNAL_FULL, DATA_LOSS / JOURNAL_CORRUPT, INTERNAL / JOURNAL_FAILED. `db`
// may be null.
absl::Status SqliteStatus(sqlite3* db, int code, const std::string& what);

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
  absl::Status Prepare(sqlite3* db, const char* sql);
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
  absl::StatusOr<bool> Step();
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

// Opens the file at `path`, made if missing (0600). Changes nothing of one that exists: not even
// closing it does, before AllowCheckpointOnClose(). FAILED_PRECONDITION / STATE_DIRECTORY_UNUSABLE
// and SqliteStatus().
absl::StatusOr<Database> OpenDatabase(const std::string& path);
// Closing folds the WAL in from now on.
void AllowCheckpointOnClose(sqlite3* db);

absl::Status Execute(sqlite3* db, const std::string& sql);
// The first column of the first row; 0 without one.
absl::StatusOr<int64_t> QueryInteger(sqlite3* db, const char* sql);
// FAILED_PRECONDITION / STATE_DIRECTORY_UNUSABLE with errno in words.
absl::Status UnusablePath(const std::string& path, int error);

}  // namespace rehome

#endif  // REHOME_DAEMON_SQLITE_DATABASE_H_
