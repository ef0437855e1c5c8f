// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/damaged_journal.h"

#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "daemon/journal_schema.h"

namespace rehome::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFolded = 16, kLogged = 6;
constexpr size_t kMaxBlows = 8;
constexpr size_t kMaxAppendedBytes = 64 * 1024;

// Takes no parameter: the argument is put behind it.
constexpr char kVersionPragma[] = "PRAGMA user_version = ";
// ?1 is the argument.
constexpr const char* kSql[] = {
    "",
    "UPDATE migrations SET seq = ?1 WHERE seq = (SELECT max(seq) FROM migrations)",
    "UPDATE migrations SET record = zeroblob(?1 & 65535) WHERE seq = 3",
    "UPDATE migrations SET record = (SELECT record FROM migrations WHERE seq = 1) WHERE seq = 2",
    "UPDATE migrations SET id = 'm-' || ?1 WHERE seq = 4",
    "UPDATE sqlite_sequence SET seq = ?1",
    "INSERT INTO transitions VALUES ('m-none', ?1, '', '', 0)",
    "DROP INDEX finished_by_age",
    "DROP TABLE transitions",
    "DROP TABLE migrations",
    "DROP TABLE traces",
    "ALTER TABLE migrations RENAME COLUMN finished TO ended",
    "CREATE TABLE recipes (name TEXT)",
    "DROP TABLE migrations; DROP TABLE traces; PRAGMA journal_mode = DELETE",
    "ALTER TABLE transitions RENAME TO steps; DROP TABLE traces; PRAGMA journal_mode = DELETE",
    kVersionPragma,
};

// ---- the journal that is damaged ----

Files ReadFiles(const fs::path& directory) {
  Files files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::string& bytes = files[entry.path().filename()];
    bytes.resize(entry.file_size());
    std::ifstream(entry.path(), std::ios::binary)
        .read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  // The lock; and the index, which every reader makes anew.
  for (const char* name : {"rehomed.lock", "journal.db-shm"}) files.erase(name);
  // A log without a byte says nothing.
  if (const auto log = files.find(kWal); log != files.end() && log->second.empty()) {
    files.erase(log);
  }
  return files;
}

// One for the life of the program; in memory, where there is such a place.
class Directory {
 public:
  Directory() {
    const fs::path memory = "/dev/shm";
    std::string name = (access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path()) /
                       "rehome-journal-fuzz-XXXXXX";
    REHOME_PROMISE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void Fill(const Files& files) const {
    for (const auto& entry : fs::directory_iterator(path_)) fs::remove(entry.path());
    for (const auto& [name, bytes] : files) std::ofstream(path_ / name, std::ios::binary) << bytes;
  }

 private:
  fs::path path_;
};

struct Whole {
  Files folded;  // the database alone
  Files logged;  // with the latest appends in its log
  Written written;
};

Whole MakeWhole(const fs::path& directory) {
  Whole whole;
  const auto append = [&whole](Journal& journal, size_t number, uint64_t revision) {
    whole.written.ever.push_back(JournalRecord(number, revision));
    REHOME_PROMISE(journal.Append(whole.written.ever.back()).ok());
  };
  for (size_t number = 0; number < kFolded; ++number) {
    append(**OpenSqliteJournal(directory), number, 1);
  }
  auto journal = OpenSqliteJournal(directory);
  REHOME_PROMISE(journal.ok());
  whole.written.states.push_back(LoadAll(**journal));
  for (size_t i = 0; i < kLogged; ++i) {
    const bool is_new = i % 3 == 0;
    append(**journal, is_new ? kFolded + i : i, is_new ? 1 : 2);
    whole.written.states.push_back(LoadAll(**journal));
  }
  whole.logged = ReadFiles(directory);
  REHOME_PROMISE(whole.logged.size() == 2);
  journal->reset();
  whole.folded = ReadFiles(directory);
  REHOME_PROMISE(whole.folded.size() == 1);
  return whole;
}

const Directory& Place() {
  static const Directory directory;
  return directory;
}

const Whole& TheWhole() {
  static const Whole whole = MakeWhole(Place().path());
  return whole;
}

// ---- the blows ----

void Put32(std::string& bytes, size_t at, uint32_t value) {
  value = __builtin_bswap32(value);
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

// The sum of a log's header, over words in the order that its magic says.
void MendHeader(std::string& log) {
  if (log.size() < kWalHeader) return;
  uint32_t first = 0, second = 0;
  for (size_t at = 0; at < 24; at += 8) {
    uint32_t words[2];
    std::memcpy(words, log.data() + at, sizeof(words));
    const bool is_big_endian = (log[3] & 1) != 0;
    for (uint32_t& word : words) word = is_big_endian ? __builtin_bswap32(word) : word;
    first += words[0] + second;
    second += words[1] + first;
  }
  Put32(log, 24, first);
  Put32(log, 28, second);
}

// One page is lost (zeros, another byte) or what belongs to another place.
void HitPage(const Blow& blow, std::string& db) {
  const size_t pages = db.size() / kPage;
  if (pages == 0) return;
  const size_t at = blow.at % pages * kPage, from = blow.value / 4 % pages * kPage;
  if (blow.value % 4 == 0) db.replace(at, kPage, db.substr(from, kPage));
  if (blow.value % 4 == 1) db.replace(at, kPage, kPage, '\0');
  if (blow.value % 4 == 2) db.replace(at, kPage, kPage, '\xee');
  if (blow.value % 4 == 3) db.replace(at, kPage, kPage, '\xff');
}

void HitFrame(const Blow& blow, std::string& log) {
  const size_t frames = log.size() < kWalHeader ? 0 : (log.size() - kWalHeader) / kFrame;
  if (frames == 0) return;
  const std::string moved = log.substr(kWalHeader + blow.value % frames * kFrame, kFrame);
  log.replace(kWalHeader + blow.at % frames * kFrame, kFrame, moved);
}

void Hit(const Blow& blow, std::string& bytes) {
  const size_t at = bytes.empty() ? 0 : blow.at % bytes.size();
  const size_t run = std::min<size_t>(1 + blow.value / 256 % 64, bytes.size() - at);
  switch (blow.kind) {
    case BlowKind::kCut:
      bytes.resize(at);
      return;
    case BlowKind::kFill:
      bytes.replace(at, run, run, static_cast<char>(blow.value));
      return;
    case BlowKind::kFlip:
      if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (blow.value | 1));
      return;
    case BlowKind::kPage:
      return HitPage(blow, bytes);
    case BlowKind::kGrow:
      bytes.append(blow.value % kMaxAppendedBytes, static_cast<char>(blow.at));
      return;
    case BlowKind::kDrop:
      bytes.clear();
      return;
    case BlowKind::kFrame:
      return HitFrame(blow, bytes);
    case BlowKind::kMendHeader:
      return MendHeader(bytes);
    case BlowKind::kCount:
      return;
  }
}

std::string_view SqlOf(const Head& head) { return kSql[head.sql % std::size(kSql)]; }

// Whether a frame has none of the salts that the header has.
bool LooksEarlier(std::string_view log) {
  for (size_t at = kWalHeader; at + kFrame <= log.size(); at += kFrame) {
    if (log.substr(16, 4) != log.substr(at + 8, 4) && log.substr(20, 4) != log.substr(at + 12, 4)) {
      return true;
    }
  }
  return false;
}

// Whether a frame that ends a transaction in `before` does not in `log`: bytes 4 to 7 of its
// header, the size of the database then, are zero (sqlite.org/fileformat2.html, 4.1).
bool HidesCommit(std::string_view before, std::string_view log) {
  constexpr std::string_view kNone("\0\0\0\0", 4);
  for (size_t at = kWalHeader; at + kFrame <= before.size(); at += kFrame) {
    const bool has_frame = at + kFrame <= log.size();
    if (before.substr(at + 4, 4) != kNone && has_frame && log.substr(at + 4, 4) == kNone) {
      return true;
    }
  }
  return false;
}

void RunSql(const fs::path& path, const Head& head) {
  sqlite3* db = nullptr;
  REHOME_PROMISE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  std::string sql(SqlOf(head));
  if (sql == kVersionPragma) sql += std::to_string(static_cast<int>(head.argument));
  for (const char* rest = sql.c_str(); *rest != '\0';) {
    sqlite3_stmt* statement = nullptr;
    REHOME_PROMISE(sqlite3_prepare_v2(db, rest, -1, &statement, &rest) == SQLITE_OK);
    sqlite3_bind_int64(statement, 1, head.argument);
    sqlite3_step(statement);  // may be refused: a value that is there twice
    sqlite3_finalize(statement);
  }
  REHOME_PROMISE(sqlite3_close(db) == SQLITE_OK);
}

}  // namespace

std::vector<Migration> LoadAll(Journal& journal) {
  std::vector<Migration> records;
  const absl::Status status = journal.Load([&](const Migration& m) { records.push_back(m); });
  REHOME_PROMISE(status.ok());
  return records;
}

Migration JournalRecord(size_t number, uint64_t revision) {
  Migration record;
  record.id = "m-00000000000000" + std::to_string(10 + number);
  record.request.vm_id = "vm-" + std::to_string(number);
  record.revision = revision;
  record.state = number % 2 == 0 ? MigrationState::kSucceeded : MigrationState::kPending;
  record.step = number % 2 == 0 ? Step::kDone : Step::kQueued;
  record.boot_id = "this-boot";
  // A few on each page, and none that needs a second one.
  record.failure.message = std::string(500, static_cast<char>('A' + number));
  return record;
}

const fs::path& JournalDirectory() { return Place().path(); }

void FillJournalDirectory(const Files& files) { Place().Fill(files); }

Files JournalFiles() { return ReadFiles(JournalDirectory()); }

const Written& WrittenToJournal() { return TheWhole().written; }

Damage MakeDamagedJournal(Input in) {
  Head head = in.Take<Head>();
  Damage damage{.base = static_cast<Base>(static_cast<uint8_t>(head.base) %
                                          static_cast<uint8_t>(Base::kCount))};
  const Whole& whole = TheWhole();
  Files files = damage.base == Base::kDatabase ? whole.folded : whole.logged;
  if (damage.base == Base::kDatabase && head.sql != 0) {
    Place().Fill(files);
    RunSql(Place().path() / kDb, head);
    files = ReadFiles(Place().path());
    damage.has_sql = damage.any = true;
    const std::string_view sql = SqlOf(head);
    damage.is_newer = head.blows == 0 && sql == kVersionPragma &&
                      static_cast<int>(head.argument) > kJournalSchemaVersion;
    damage.is_foreign = head.blows == 0 && (sql.starts_with("DROP TABLE migrations") ||
                                            sql.starts_with("ALTER TABLE transitions"));
  }
  for (size_t i = 0; i < head.blows % (kMaxBlows + 1u); ++i) {
    Blow blow = in.Take<Blow>();
    blow.kind = static_cast<BlowKind>(static_cast<uint8_t>(blow.kind) %
                                      static_cast<uint8_t>(BlowKind::kCount));
    const bool on_log = damage.base == Base::kLog || (damage.base == Base::kBoth && blow.on_log);
    std::string& bytes = files[on_log ? kWal : kDb];
    const std::string before = bytes;
    Hit(blow, bytes);
    if (bytes == before) continue;
    damage.any = true;
    damage.is_cut = damage.is_cut || bytes.size() < before.size();
    damage.has_mended = damage.has_mended || blow.kind == BlowKind::kMendHeader;
    damage.whole_pages = damage.whole_pages &&
                         (on_log || blow.kind == BlowKind::kCut || blow.kind == BlowKind::kPage ||
                          blow.kind == BlowKind::kGrow || blow.kind == BlowKind::kDrop);
  }
  damage.hides_commit = files.contains(kWal) && HidesCommit(whole.logged.at(kWal), files[kWal]);
  damage.looks_earlier = files.contains(kWal) && LooksEarlier(files[kWal]);
  Place().Fill(files);
  return damage;
}

}  // namespace rehome::fuzz
