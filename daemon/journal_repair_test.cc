// SPDX-License-Identifier: Apache-2.0
//
// A journal that something has damaged: what can be read is kept, what cannot is counted, and a
// newer one is never touched.
#include "daemon/journal_repair.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "daemon/journal_schema.h"
#include "daemon/reasons.h"
#include "daemon/testing/journal_fixture.h"
#include "daemon/wal_tail.h"
#include "gmock/gmock.h"
#include "kvmglue/fd.h"

namespace rehome {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::Contents;
using testing_support::Record;

class JournalRepairTest : public testing_support::JournalFixture {
 protected:
  static void Overwrite(const std::string& path, uint64_t at, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << bytes;
    ASSERT_TRUE(file.good());
  }
  size_t SetAsideFiles() const {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      count += name.starts_with("journal.db.damaged-") && !name.ends_with("-wal") ? 1 : 0;
    }
    return count;
  }
  // 200 records with pages of their own, folded in.
  void MakeLargeJournal() {
    auto journal = Open();
    for (uint64_t number = 1; number <= 200; ++number) {
      Migration record = Record(number, 1);
      record.failure.message = std::string(500, 'x');
      ASSERT_TRUE(journal->Append(record).ok());
    }
  }
};

// ---- the torn tail ----

TEST_F(JournalRepairTest, ASoundLogHasNoTail) {
  AppendAndDie(20);
  EXPECT_GT(fs::file_size(wal()), 0u);
  EXPECT_TRUE(InspectWal(wal()).none());
  EXPECT_EQ(LoadAll(*Open()).size(), 20u);
  EXPECT_TRUE(repair_.none());
  EXPECT_EQ(repair_.Summary(), "");
  EXPECT_TRUE(InspectWal(db() + "-nothing").none());
}

TEST_F(JournalRepairTest, ALogThatWasBegunAnewHasOldFramesBehindAndNoTail) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto journal = OpenSqliteJournal(directory_);
    // Folded in often enough to begin anew, at different lengths.
    for (uint64_t revision = 1; revision <= 900; ++revision) {
      if (!(*journal)->Append(Record(revision % 7, revision)).ok()) _exit(1);
    }
    raise(SIGKILL);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_GE(fs::file_size(wal()), static_cast<uint64_t>(kWalPages) * 4096) << "it was long once";
  EXPECT_TRUE(InspectWal(wal()).none());
}

// Every length at which the last append may have been cut off, a few bytes apart.
TEST_F(JournalRepairTest, ATornAppendIsCutAndReportedWhereverItWasTorn) {
  AppendAndDie(6);
  const fs::path kept = directory_.string() + "-kept";
  fs::remove_all(kept);
  fs::copy(directory_, kept);
  const uint64_t whole = fs::file_size(wal());
  const size_t frame = 24 + 4096;
  uint64_t last = 0;
  for (uint64_t size = whole - 1; size > whole - 3 * frame; size -= 97) {
    fs::remove_all(directory_);
    fs::copy(kept, directory_);
    fs::resize_file(wal(), size);
    const size_t records = LoadAll(*Open()).size();
    const bool at_end_of_a_frame = (size - 32) % frame == 0;
    if (records < 6 && !at_end_of_a_frame) {
      EXPECT_GT(repair_.torn_bytes, 0u) << size;
      EXPECT_EQ(repair_.torn_commits, 0u) << "no append had returned";
      EXPECT_THAT(repair_.Summary(), HasSubstr("cut a torn tail of"));
      ++last;
    }
    EXPECT_GE(records, 4u);
    EXPECT_EQ(LoadAll(*Open()).size(), records);
    EXPECT_TRUE(repair_.none()) << "reported once";
  }
  EXPECT_GT(last, 50u) << "torn ones were among them";
  fs::remove_all(kept);
}

TEST_F(JournalRepairTest, ADamagedFrameInTheMiddleIsReportedWithTheCommitsBehindIt) {
  AppendAndDie(20);
  const uint64_t frames = (fs::file_size(wal()) - 32) / (24 + 4096);
  Overwrite(wal(), 32 + (frames / 2) * (24 + 4096) + 100, "damage");
  const WalTail tail = InspectWal(wal());
  EXPECT_GE(tail.frames, frames - frames / 2);
  EXPECT_GT(tail.commits, 0u);
  const size_t records = LoadAll(*Open()).size();
  EXPECT_LT(records, 20u);
  EXPECT_EQ(records + repair_.torn_commits, 20u);
  EXPECT_TRUE(repair_.may_miss_records());
}

TEST_F(JournalRepairTest, ALogWithADamagedHeaderIsReportedWhole) {
  AppendAndDie(5);
  const uint64_t size = fs::file_size(wal());
  Overwrite(wal(), 8, "damage");
  Open();
  EXPECT_EQ(repair_.torn_bytes, size);
  EXPECT_GE(repair_.torn_commits, 5u);
  EXPECT_TRUE(repair_.may_miss_records());
}

// Or all behind it would pass for what an earlier log has left there.
TEST_F(JournalRepairTest, AFrameWithADamagedSaltDoesNotHideTheCommitsBehindIt) {
  AppendAndDie(20);
  const uint64_t frames = (fs::file_size(wal()) - 32) / (24 + 4096);
  const uint64_t salt = 32 + (frames / 2) * (24 + 4096) + 8;
  std::string counted(4, '\0');
  std::ifstream(wal(), std::ios::binary)
      .seekg(static_cast<std::streamoff>(salt))
      .read(&counted[0], 4);
  // A little smaller, as an earlier log's.
  counted[3] = static_cast<char>(counted[3] - 1);
  Overwrite(wal(), salt, counted);
  const size_t records = LoadAll(*Open()).size();
  EXPECT_LT(records, 20u);
  EXPECT_EQ(records + repair_.torn_commits, 20u);
}

// ---- records ----

TEST_F(JournalRepairTest, ARecordThatCannotBeReadIsMovedAsideAndTheRestGoesOn) {
  {
    auto journal = Open();
    for (uint64_t number = 1; number <= 3; ++number) {
      ASSERT_TRUE(journal->Append(Record(number, 1)).ok());
    }
  }
  Sql(absl::StrCat("UPDATE migrations SET record = x'ffffffff' WHERE id = '", Record(2, 1).id,
                   "'"));
  auto journal = Open();
  EXPECT_EQ(LoadAll(*journal).size(), 2u);
  EXPECT_THAT(repair_.damaged_ids, ElementsAre(Record(2, 1).id));
  EXPECT_TRUE(repair_.may_miss_records());
  EXPECT_THAT(repair_.Summary(), HasSubstr(Record(2, 1).id));
  EXPECT_EQ(Sql("SELECT hex(record) FROM damaged"), "FFFFFFFF");
  EXPECT_EQ(Sql("SELECT count(*) FROM transitions"), "2");
  EXPECT_TRUE(journal->Append(Record(4, 1)).ok()) << "and others can go on";
  EXPECT_TRUE(journal->EndRepair().ok());
  journal.reset();
  EXPECT_EQ(LoadAll(*Open()).size(), 3u);
  EXPECT_TRUE(repair_.none()) << "reported once";
}

TEST_F(JournalRepairTest, ARecordInTheWrongPlaceIsDamagedToo) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
    ASSERT_TRUE(journal->Append(Record(2, 1)).ok());
  }
  Sql("UPDATE migrations SET record = (SELECT record FROM migrations WHERE seq = 1)");
  EXPECT_EQ(LoadAll(*Open()).size(), 1u);
  EXPECT_THAT(repair_.damaged_ids, ElementsAre(Record(2, 1).id));
}

TEST_F(JournalRepairTest, TheTableOfDamagedRecordsIsBounded) {
  Open();
  Sql(absl::StrCat("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ",
                   2 * kMaxDamagedRecords,
                   ") INSERT INTO damaged (id, record, why, time_unix_ns) SELECT 'm', x'00', '', i "
                   "FROM n"));
  Sql("INSERT INTO migrations (id, finished, record) VALUES ('m-1', 0, x'ff')");
  LoadAll(*Open());
  EXPECT_EQ(Sql("SELECT count(*) FROM damaged"), absl::StrCat(kMaxDamagedRecords));
  EXPECT_EQ(Sql("SELECT id FROM damaged ORDER BY seq DESC LIMIT 1"), "m-1") << "the latest stay";
}

// ---- the file ----

TEST_F(JournalRepairTest, OfADamagedDatabaseTheReadableRowsAreSavedAndTheFileIsKept) {
  MakeLargeJournal();
  const uint64_t pages = fs::file_size(db()) / 4096;
  ASSERT_GT(pages, 30u);
  // A third of the pages, never the first, which names the tables.
  for (uint64_t page = 20; page < 20 + pages / 3; ++page) {
    Overwrite(db(), page * 4096, std::string(64, '\xee'));
  }
  const auto damaged = Contents(directory_).at("journal.db");

  auto journal = Open();
  EXPECT_EQ(repair_.set_aside, db() + ".damaged-1");
  EXPECT_NE(repair_.damage, "");
  const std::vector<Migration> records = LoadAll(*journal);
  EXPECT_EQ(records.size(), repair_.records_saved);
  EXPECT_GT(records.size(), 60u) << "what is not on those pages is there";
  EXPECT_LT(records.size(), 200u);
  for (const Migration& record : records) EXPECT_EQ(record.failure.message.size(), 500u);
  if (repair_.records_lost.has_value()) {
    EXPECT_EQ(*repair_.records_lost + repair_.records_saved, 200u);
  }
  EXPECT_THAT(repair_.Summary(), HasSubstr("records were saved"));
  EXPECT_EQ(Contents(directory_).at("journal.db.damaged-1"), damaged) << "as it was";
  EXPECT_TRUE(journal->Append(Record(1000, 1)).ok());
  EXPECT_TRUE(journal->EndRepair().ok());
  journal.reset();
  EXPECT_EQ(LoadAll(*Open()).size(), records.size() + 1);
  EXPECT_TRUE(repair_.none());
}

TEST_F(JournalRepairTest, ADamagedDatabaseWithADamagedLogIsRepairedAndReportedAtTheSameStart) {
  AppendAndDie(5);
  Overwrite(wal(), 8, "damage");
  Overwrite(db(), 100, std::string(200, '\xee'));
  auto journal = Open();
  ASSERT_NE(journal, nullptr);
  EXPECT_NE(repair_.set_aside, "");
  EXPECT_GT(repair_.torn_bytes, 0u);
  EXPECT_TRUE(journal->Append(Record(1, 1)).ok());
  EXPECT_TRUE(journal->EndRepair().ok());
  journal.reset();
  EXPECT_EQ(LoadAll(*Open()).size(), 1u);
  EXPECT_TRUE(repair_.none()) << "reported once";
}

TEST_F(JournalRepairTest, AJournalThatHasLostItsTablesByDamageIsNotTakenForSomebodyElses) {
  MakeLargeJournal();
  // Of the page that lists the tables: it has none (fileformat2.html, 1.6).
  Overwrite(db(), 103, std::string(2, '\0'));
  auto journal = Open();
  ASSERT_NE(journal, nullptr);
  EXPECT_NE(repair_.set_aside, "");
  EXPECT_TRUE(journal->Append(Record(1, 1)).ok());
}

TEST_F(JournalRepairTest, AFileThatIsNoDatabaseIsKeptAndANewJournalBegun) {
  fs::create_directory(directory_);
  std::ofstream(db()) << std::string(8192, 'x');
  EXPECT_TRUE(LoadAll(*Open()).empty());
  EXPECT_EQ(repair_.set_aside, db() + ".damaged-1");
  EXPECT_EQ(repair_.records_saved, 0u);
  EXPECT_FALSE(repair_.records_lost.has_value()) << "nobody knows";
  EXPECT_EQ(fs::file_size(db() + ".damaged-1"), 8192u);
}

TEST_F(JournalRepairTest, AnIndexThatHasLostItsEntriesIsDamageAndAppendsGoOn) {
  {
    auto journal = Open();
    for (uint64_t number = 1; number <= 3; ++number) {
      ASSERT_TRUE(journal->Append(Record(number, 1)).ok());
    }
  }
  const std::string page_of = "SELECT rootpage FROM sqlite_schema WHERE name = ";
  const uint64_t index = std::stoul(Sql(page_of + "'sqlite_autoindex_migrations_1'"));
  const uint64_t none = std::stoul(Sql(page_of + "'traces'"));  // an index too, and empty
  std::string page(4096, '\0');
  std::ifstream(db(), std::ios::binary)
      .seekg(static_cast<std::streamoff>((none - 1) * page.size()))
      .read(page.data(), static_cast<std::streamsize>(page.size()));
  Overwrite(db(), (index - 1) * page.size(), page);
  auto journal = Open();
  EXPECT_EQ(LoadAll(*journal).size(), 3u);
  EXPECT_NE(repair_.set_aside, "");
  EXPECT_TRUE(journal->Append(Record(1, 2)).ok());
  EXPECT_EQ(LoadAll(*journal).size(), 3u);
}

TEST_F(JournalRepairTest, ANumberThatLeavesNoneBehindItIsDamageAndAppendsGoOn) {
  {
    auto journal = Open();
    for (uint64_t number = 1; number <= 3; ++number) {
      ASSERT_TRUE(journal->Append(Record(number, 1)).ok());
    }
  }
  Sql("UPDATE migrations SET seq = 9223372036854775807 WHERE seq = 2");
  auto journal = Open();
  EXPECT_NE(repair_.set_aside, "");
  EXPECT_EQ(LoadAll(*journal), (std::vector<Migration>{Record(1, 1), Record(3, 1), Record(2, 1)}));
  EXPECT_TRUE(journal->Append(Record(4, 1)).ok());
}

TEST_F(JournalRepairTest, TheNumberOfDamagedFilesIsBoundedAndTheLatestAreKept) {
  fs::create_directory(directory_);
  for (int round = 0; round < kMaxSetAsideJournals + 2; ++round) {
    std::ofstream(db(), std::ios::trunc) << std::string(4096, static_cast<char>('a' + round));
    fs::last_write_time(db(), fs::file_time_type::clock::now() + std::chrono::hours(round));
    ASSERT_NE(Open(), nullptr);
    std::ifstream kept(repair_.set_aside);
    EXPECT_EQ(kept.get(), 'a' + round);
    EXPECT_LE(SetAsideFiles(), static_cast<size_t>(kMaxSetAsideJournals));
  }
}

TEST_F(JournalRepairTest, ASalvageThatWasInterruptedIsFinishedAndLosesNothing) {
  ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
  // As left between the two renames: the salvaged one is complete, the damaged one still in place.
  fs::copy(db(), db() + ".salvaged");
  std::ofstream(db(), std::ios::trunc) << std::string(4096, 'x');
  EXPECT_EQ(LoadAll(*Open()).size(), 1u);
  EXPECT_FALSE(fs::exists(db() + ".salvaged"));
  EXPECT_EQ(SetAsideFiles(), 1u);
  // And as left while it was being written: begun again.
  std::ofstream(db() + ".partial") << "half";
  std::ofstream(db(), std::ios::trunc) << std::string(4096, 'x');
  EXPECT_TRUE(LoadAll(*Open()).empty());
  EXPECT_FALSE(fs::exists(db() + ".partial"));
}

// ---- versions ----

TEST_F(JournalRepairTest, ADamagedJournalOfANewerVersionIsLeftUntouchedToo) {
  MakeLargeJournal();
  Sql("PRAGMA user_version = 3");
  Overwrite(db(), 100, std::string(200, '\xee'));
  const auto before = Contents(directory_);
  EXPECT_EQ(OpenError(), reason::kJournalFromNewerVersion);
  EXPECT_EQ(Contents(directory_), before);
}

TEST_F(JournalRepairTest, ATornTailOfANewerJournalIsNotCut) {
  AppendAndDie(3);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    sqlite3* database = nullptr;
    sqlite3_open(db().c_str(), &database);
    sqlite3_exec(database, "PRAGMA journal_mode=WAL; PRAGMA user_version = 7; CREATE TABLE t (x)",
                 nullptr, nullptr, nullptr);
    raise(SIGKILL);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  fs::resize_file(wal(), fs::file_size(wal()) - 5);
  ASSERT_FALSE(InspectWal(wal()).none());
  const auto before = Contents(directory_);
  EXPECT_EQ(OpenError(), reason::kJournalFromNewerVersion);
  EXPECT_EQ(Contents(directory_), before);
}

TEST_F(JournalRepairTest, AJournalOfVersion1IsTakenOver) {
  ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
  Sql("DROP TABLE damaged; PRAGMA user_version = 1");
  auto journal = Open();
  EXPECT_TRUE(repair_.none());
  EXPECT_EQ(LoadAll(*journal).size(), 1u);
  EXPECT_EQ(Sql("PRAGMA user_version"), absl::StrCat(kJournalSchemaVersion));
  EXPECT_EQ(Sql("SELECT count(*) FROM damaged"), "0");
}

}  // namespace
}  // namespace rehome
