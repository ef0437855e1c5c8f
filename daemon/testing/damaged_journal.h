// SPDX-License-Identifier: Apache-2.0
//
// A journal on real files that something has damaged, as an input of a fuzz target says.
#ifndef REHOME_DAEMON_TESTING_DAMAGED_JOURNAL_H_
#define REHOME_DAEMON_TESTING_DAMAGED_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "daemon/journal.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {

// Bytes, as the journal has them: of a page, and in its log of a frame and what stands before all.
inline constexpr size_t kPage = 4096, kFrame = 24 + kPage, kWalHeader = 32;
inline constexpr char kDb[] = "journal.db", kWal[] = "journal.db-wal";

// ---- the input: a head, and as many blows as it says ----

// What is damaged: the log of a journal that was left with one, a journal without a log, or either
// file of one with a log.
enum class Base : uint8_t { kLog, kDatabase, kBoth, kCount };

struct Head {
  Base base = Base::kLog;
  uint8_t sql = 0;  // a number of a statement that is run before; only without a log
  uint8_t blows = 0;
  uint8_t unused = 0;
  int64_t argument = 0;  // of the statement
};

enum class BlowKind : uint8_t {
  kCut,         // to `at`, modulo the size
  kFill,        // some bytes at `at`
  kFlip,        // bits of the byte at `at`
  kPage,        // page `at` is lost, or another one is in its place
  kGrow,        // some bytes more
  kDrop,        // the file is gone
  kFrame,       // frame `at` is another one
  kMendHeader,  // the log's header has the sum of what it says
  kCount
};

struct Blow {
  BlowKind kind = BlowKind::kCut;
  uint8_t on_log = 0;  // for Base::kBoth
  uint16_t value = 0;
  uint32_t at = 0;
};

// ---- what is made of it ----

using Files = std::map<std::string, std::string>;  // bytes by name

// What was written to the journal that is damaged.
struct Written {
  // Of the journal with a log: what it held before the first append in it, and after each.
  std::vector<std::vector<Migration>> states;
  std::vector<Migration> ever;
};

// What can be said of the journal after what was done to it.
struct Damage {
  Base base = Base::kLog;
  bool any = false;
  bool is_cut = false;         // a file has lost bytes, and nothing says how many
  bool has_mended = false;     // a header that is wrong and says that it is right
  bool hides_commit = false;   // a frame that ended a transaction does not say so any more
  bool looks_earlier = false;  // a frame of the log as an earlier log leaves some behind this one
  bool whole_pages = true;     // within each page of the database nothing has changed
  bool has_sql = false;
  bool is_newer = false;    // whole, and of a version that is not known yet
  bool is_foreign = false;  // whole, and lacks a table of ours
};

// The directory of the journal, the same each time, in memory where there is such a place. Gone
// with the program.
const std::filesystem::path& JournalDirectory();
// Puts these there, and nothing else.
void FillJournalDirectory(const Files& files);
// What is there, without the lock, the index, which every reader makes anew, and empty files.
Files JournalFiles();

const Written& WrittenToJournal();
// Fills the directory.
Damage MakeDamagedJournal(Input in);

// All records. Ends the process if they cannot be had.
std::vector<Migration> LoadAll(Journal& journal);
// One of ours; any number below 32.
Migration JournalRecord(size_t number, uint64_t revision);

}  // namespace rehome::fuzz

#endif  // REHOME_DAEMON_TESTING_DAMAGED_JOURNAL_H_
