// SPDX-License-Identifier: Apache-2.0
//
// A journal that something has damaged: a real one, cut, overwritten, with pages and frames in the
// wrong places. Promises: it opens, or is refused and then not a byte of it is changed; with damage
// to the log alone it opens as it was after some append, and with lost or misplaced pages it holds
// records that were written and no others; a file that is set aside is what was there; what may be
// missing is reported, once; and it can be appended to.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>

#include "daemon/journal.h"
#include "daemon/testing/damaged_journal.h"
#include "daemon/wal_tail.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/descriptors.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

namespace fs = std::filesystem;

bool IsIn(const std::string& text, std::initializer_list<std::string_view> all) {
  return std::find(all.begin(), all.end(), text) != all.end();
}

void CheckRefusal(const absl::Status& status, const Files& before) {
  REHOME_PROMISE(
      IsIn(ReasonOf(status), {"JOURNAL_FROM_NEWER_VERSION", "JOURNAL_FOREIGN", "JOURNAL_FAILED"}));
  if (JournalFiles() != before) std::cerr << status << std::endl;
  REHOME_PROMISE(JournalFiles() == before);
}

void CheckSetAside(const JournalRepair& repair, const Files& before) {
  const Files after = JournalFiles();
  const auto kept = [&](const std::string& name, const char* original) {
    const auto file = after.find(name);
    const auto old = before.find(original);
    return (file == after.end() ? "" : file->second) == (old == before.end() ? "" : old->second);
  };
  if (repair.set_aside.empty()) {
    REHOME_PROMISE(!after.contains("journal.db.damaged-1"));
    return;
  }
  const std::string name = fs::path(repair.set_aside).filename();
  REHOME_PROMISE(kept(name, kDb) && kept(name + "-wal", kWal));
}

// Nothing tells a log that has lost its end, or one whose frames look like those of an earlier log,
// from a whole one that is shorter; nor a last transaction whose last frame is gone from one that a
// crash has torn. A header that claims what is not true is no damage.
bool IsBeyondTelling(const Damage& damage) {
  return damage.is_cut || damage.hides_commit || damage.looks_earlier || damage.has_mended;
}

void CheckRecords(const Damage& damage, const std::vector<Migration>& records,
                  const JournalRepair& repair) {
  const Written& written = WrittenToJournal();
  const bool is_all = records == written.states.back();
  if (damage.base == Base::kLog) {
    REHOME_PROMISE(std::find(written.states.begin(), written.states.end(), records) !=
                   written.states.end());
    REHOME_PROMISE(repair.set_aside.empty() && repair.damaged_ids.empty());
    REHOME_PROMISE(is_all || IsBeyondTelling(damage) || repair.may_miss_records());
  }
  if (damage.whole_pages && !damage.has_sql) {
    for (const Migration& record : records) {
      REHOME_PROMISE(std::find(written.ever.begin(), written.ever.end(), record) !=
                     written.ever.end());
    }
  }
  REHOME_PROMISE(damage.any || (is_all && repair.none()));
  std::vector<std::string> ids;
  for (const Migration& record : records) ids.push_back(record.id);
  std::sort(ids.begin(), ids.end());
  REHOME_PROMISE(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
  if (!repair.set_aside.empty()) {
    REHOME_PROMISE(repair.records_saved == records.size() + repair.damaged_ids.size());
  }
}

// Goes on with what there is, and finds the same at the next start; and that records may be missing
// until a start has come to its end.
void CheckGoesOn(std::unique_ptr<Journal> journal, std::vector<Migration> records) {
  Migration next = JournalRecord(0, 1);
  next.id = "m-next";
  REHOME_PROMISE(journal->Append(next).ok());
  records.push_back(next);
  const bool may_miss = journal->repair().may_miss_records();
  // As a crash leaves them.
  const Files left = JournalFiles();
  journal.reset();
  FillJournalDirectory(left);
  auto again = OpenSqliteJournal(JournalDirectory());
  REHOME_PROMISE(again.ok());
  REHOME_PROMISE(LoadAll(**again) == records);
  JournalRepair repair = (*again)->repair();
  REHOME_PROMISE(repair.of_earlier_start == may_miss);
  repair.of_earlier_start = false;
  REHOME_PROMISE(repair.none());
  REHOME_PROMISE((*again)->EndRepair().ok());
}

void CheckTail(const Files& before) {
  const auto log = before.find(kWal);
  const uint64_t size = log == before.end() ? 0 : log->second.size();
  const WalTail tail = InspectWal(JournalDirectory() / kWal);
  REHOME_PROMISE(tail.bytes <= size && tail.commits <= tail.frames);
  // The smallest page that there is.
  REHOME_PROMISE(tail.frames * (24 + 512) <= tail.bytes);
}

}  // namespace

bool Feed(std::span<const std::byte> input) {
  WrittenToJournal();
  const size_t open_before = CountOpenFds();
  const Damage damage = MakeDamagedJournal(Input(input));
  const Files before = JournalFiles();
  CheckTail(before);
  auto journal = OpenSqliteJournal(JournalDirectory());
  const std::string refusal = ReasonOf(journal.status());
  REHOME_PROMISE(!damage.is_newer || refusal == "JOURNAL_FROM_NEWER_VERSION");
  REHOME_PROMISE(!damage.is_foreign || refusal == "JOURNAL_FOREIGN");
  if (!journal.ok()) {
    CheckRefusal(journal.status(), before);
    REHOME_PROMISE(damage.base != Base::kLog || damage.has_mended);
    REHOME_PROMISE(CountOpenFds() == open_before);
    return false;
  }
  const std::vector<Migration> records = LoadAll(**journal);
  CheckSetAside((*journal)->repair(), before);
  CheckRecords(damage, records, (*journal)->repair());
  CheckGoesOn(*std::move(journal), records);
  REHOME_PROMISE(CountOpenFds() == open_before);
  return true;
}

std::vector<Seed> Seeds() {
  std::vector<Seed> seeds;
  const auto add = [&seeds](std::string name, Head head, const std::vector<Blow>& blows) {
    head.blows = static_cast<uint8_t>(blows.size());
    seeds.push_back({.name = std::move(name), .bytes = {}});
    Append(seeds.back().bytes, head);
    for (const Blow& blow : blows) Append(seeds.back().bytes, blow);
  };
  const uint32_t third_frame = kWalHeader + 2 * kFrame;
  add("whole-log", {.base = Base::kLog}, {});
  add("whole-database", {.base = Base::kDatabase}, {});
  add("log-cut", {.base = Base::kLog}, {{BlowKind::kCut, 1, 0, third_frame + 1000}});
  add("log-header", {.base = Base::kLog}, {{BlowKind::kFill, 1, 0x700, 8}});
  add("log-frame", {.base = Base::kLog}, {{BlowKind::kFlip, 1, 1, third_frame + 100}});
  add("log-salt", {.base = Base::kLog}, {{BlowKind::kFlip, 1, 1, third_frame + 11}});
  add("log-frames-swapped", {.base = Base::kLog}, {{BlowKind::kFrame, 1, 2, 5}});
  add("log-page-size", {.base = Base::kLog},
      {{BlowKind::kFill, 1, 0x02, 10}, {BlowKind::kMendHeader, 1, 0, 0}});
  add("log-lost", {.base = Base::kLog}, {{BlowKind::kDrop, 1, 0, 0}});
  add("database-cut", {.base = Base::kDatabase}, {{BlowKind::kCut, 0, 0, 5 * kPage}});
  add("page-lost", {.base = Base::kDatabase}, {{BlowKind::kPage, 0, 1, 3}});
  add("page-misplaced", {.base = Base::kDatabase}, {{BlowKind::kPage, 0, 4 * 3, 5}});
  add("both", {.base = Base::kBoth},
      {{BlowKind::kPage, 0, 2, 2}, {BlowKind::kFlip, 1, 1, third_frame}});
  add("bytes", {.base = Base::kDatabase}, {{BlowKind::kFill, 0, 0x20ee, 2 * kPage + 8}});
  add("last-row", {.base = Base::kDatabase, .sql = 1, .argument = INT64_MAX}, {});
  add("damaged-record", {.base = Base::kDatabase, .sql = 2, .argument = 100}, {});
  add("record-of-another", {.base = Base::kDatabase, .sql = 3}, {});
  return seeds;
}

}  // namespace rehome::fuzz
