// SPDX-License-Identifier: Apache-2.0
//
// A journal does not grow with the years.
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "daemon/journal.h"
#include "daemon/journal_schema.h"
#include "daemon/machine.h"
#include "daemon/testing/journal_fixture.h"

namespace rehome {
namespace {

namespace fs = std::filesystem;

// docs/journal.md: what a migration costs on disk, with its transitions, indexes and the log.
constexpr uint64_t kBytesPerMigration = 4096;
constexpr uint64_t kWalBytes = 2u * kWalPages * 4096;
static_assert(kFirstTransitionsKept >= kMaxTransitions && kLatestTransitionsKept >= kMaxTransitions,
              "or a migration that nobody resolved or restarted has gaps");

// A migration as large as those of the reference VMM: 20 checks, names and paths of usual length.
Migration Usual(uint64_t number, uint64_t revision, MigrationState state) {
  Migration record = testing_support::Record(number, revision, state);
  for (int i = 0; i < 20; ++i) {
    record.preflight.push_back({.name = absl::StrCat("a_check_of_usual_length_", i),
                                .detail = "what was compared, in about forty bytes"});
  }
  record.request.requested_by = "uid=0 pid=12345";
  record.source = record.target = {12345, 987654321, 4242424242};
  record.memory_inodes = {{1, 23456}, {1, 23457}};
  record.phases = {1, 2, 3, 4, 5, 6, 7, 8};
  record.fence.kernel_release = "6.18.0-amd64";
  return record;
}

class JournalGrowthTest : public testing_support::JournalFixture {
 protected:
  uint64_t Size(const char* file) const {
    std::error_code error;
    const auto size = fs::file_size(directory_ / file, error);
    return error ? 0 : size;
  }
  // Six transitions, as a migration that succeeds has.
  static void RunOne(Journal& journal, uint64_t number) {
    for (uint64_t revision = 1; revision <= 5; ++revision) {
      ASSERT_TRUE(journal.Append(Usual(number, revision, MigrationState::kPreparing)).ok());
    }
    ASSERT_TRUE(journal.Append(Usual(number, 6, MigrationState::kSucceeded)).ok());
  }
};

TEST_F(JournalGrowthTest, ThreeTimesWhatIsKeptTakesNoMoreRoomThanOnce) {
  auto journal = Open();
  uint64_t once = 0;
  for (uint64_t number = 1; number <= 3 * kMaxFinishedMigrations; ++number) {
    RunOne(*journal, number);
    if (number == kMaxFinishedMigrations) once = Size("journal.db");
    ASSERT_LE(Size("journal.db-wal"), kWalBytes) << number;
  }
  const uint64_t thrice = Size("journal.db");
  EXPECT_LE(thrice, kMaxFinishedMigrations * kBytesPerMigration);
  EXPECT_LE(thrice, once + once / 10) << "what is pruned makes room";
  EXPECT_EQ(LoadAll(*journal).size(), kMaxFinishedMigrations);
  RecordProperty("bytes_per_migration", static_cast<int>(thrice / kMaxFinishedMigrations));
  printf("bytes per migration: %lu\n", thrice / kMaxFinishedMigrations);
}

// What each resolve of an INDETERMINATE migration writes; a client may ask for it as often as it
// likes.
TEST_F(JournalGrowthTest, TenThousandResolvesOfOneMigrationTakeNoMoreRoomThanAFew) {
  auto journal = Open();
  uint64_t revision = 0;
  const auto append = [&](Step step, MigrationState state) {
    Migration record = Usual(1, ++revision, state);
    record.step = step;
    ASSERT_TRUE(journal->Append(record).ok()) << revision;
  };
  constexpr int kResolves = 10'000;
  for (int resolve = 0; resolve < kResolves; ++resolve) {
    append(Step::kRecovering, MigrationState::kRollingBack);
    append(Step::kUnresolved, MigrationState::kIndeterminate);
    ASSERT_LE(Size("journal.db-wal"), kWalBytes) << resolve;
  }
  journal.reset();                       // folds the log in
  constexpr uint64_t kRoom = 64 * 1024;  // sixteen pages: seven tables and indexes, and a few rows
  EXPECT_LE(Size("journal.db"), kRoom);
  constexpr uint64_t kKept = kFirstTransitionsKept + kLatestTransitionsKept;
  EXPECT_EQ(Sql("SELECT count(*) FROM transitions"), absl::StrCat(kKept));
  EXPECT_EQ(Sql("SELECT max(revision) FROM (SELECT revision FROM transitions ORDER BY revision "
                "LIMIT 32)"),
            absl::StrCat(kFirstTransitionsKept))
      << "how it began";
  EXPECT_EQ(
      Sql("SELECT min(revision) || '-' || max(revision) FROM transitions WHERE revision > 32"),
      absl::StrCat(revision - kLatestTransitionsKept + 1, "-", revision))
      << "how it stands";
}

TEST_F(JournalGrowthTest, OfAMigrationThatNobodyResolvedEveryTransitionIsKept) {
  auto journal = Open();
  constexpr uint64_t kKept = kFirstTransitionsKept + kLatestTransitionsKept;
  for (uint64_t revision = 1; revision <= kKept; ++revision) {
    ASSERT_TRUE(journal->Append(Usual(1, revision, MigrationState::kPreparing)).ok());
  }
  EXPECT_EQ(Sql("SELECT count(*) FROM transitions"), absl::StrCat(kKept));
}

TEST_F(JournalGrowthTest, ManyAtOnceLeaveNoLargeFileBehind) {
  {
    auto journal = Open({.max_finished = 6000});
    for (uint64_t number = 1; number <= 6000; ++number) {
      ASSERT_TRUE(journal->Append(Usual(number, 1, MigrationState::kSucceeded)).ok());
    }
  }
  const uint64_t large = Size("journal.db");
  {
    auto journal = Open({.max_finished = 10});
    ASSERT_TRUE(journal->Append(Usual(6001, 1, MigrationState::kSucceeded)).ok());
  }
  Open();
  EXPECT_LT(Size("journal.db"), large / 10) << "the next start gives it back";
}

}  // namespace
}  // namespace rehome
