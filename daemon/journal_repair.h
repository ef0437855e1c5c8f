// SPDX-License-Identifier: Apache-2.0
//
// What is done about a journal that is damaged: as much as can be read is kept, what cannot is set
// aside and counted. A record that is missing afterwards is no reason to touch any process.
#ifndef REHOME_DAEMON_JOURNAL_REPAIR_H_
#define REHOME_DAEMON_JOURNAL_REPAIR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/journal.h"
#include "daemon/sqlite_database.h"

namespace rehome {

// Files kept of damaged journals: each may be as large as a journal, and one is enough to find out
// what damaged it. Beyond that the oldest makes room.
inline constexpr int kMaxSetAsideJournals = 3;
// Rows in `damaged`: more than a torn page could hit; beyond that the oldest make room.
inline constexpr int kMaxDamagedRecords = 1000;
// Rows of a damaged table that are skipped, one by one, before the rest is given up: several times
// what a journal holds.
inline constexpr uint64_t kMaxUnreadableRows = 100'000;

// A repair destroys what it was found by: the torn tail, the damaged file, the row. So that a
// daemon that dies afterwards leaves the next one the news that records may be missing, a mark is
// put beside the journal before anything is changed, and taken away at the end of a start. An empty
// file: it is there or it is not. FAILED_PRECONDITION / STATE_DIRECTORY_UNUSABLE; nothing may be
// repaired then.
absl::Status MarkRepair(const std::string& directory);
bool IsRepairMarked(const std::string& directory);
// INTERNAL / JOURNAL_FAILED.
absl::Status UnmarkRepair(const std::string& directory);

// `directory`/journal.db cannot be used: copies what can be read of it into a new one, row by row,
// and moves the old one, with its log, to journal.db.damaged-N. Marks it first. May be interrupted
// at any point: the old files are there until the new one is complete. Errors of writing the new
// one.
absl::Status SalvageJournal(const std::string& directory, JournalRepair* repair);
// Ends what a daemon that died in SalvageJournal() had begun, and marks that. Before anything is
// opened.
absl::Status FinishSalvage(const std::string& directory);

struct DamagedRecord {
  int64_t seq = 0;
  std::string id;
  std::string why;
};
// Moves these into the table `damaged`, and drops their transitions. On an error none is moved.
absl::Status MoveDamagedRecords(sqlite3* db, const std::vector<DamagedRecord>& records);

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_REPAIR_H_
