// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_ledger.h"

#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "daemon/testing/memory_journal.h"
#include "gtest/gtest.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

const InodeId kMemory{.device = 1, .inode = 7};

Migration Record(const std::string& id, MigrationState state) {
  Migration record;
  record.id = id;
  record.revision = 2;
  record.state = state;
  record.memory_inodes = {kMemory};
  return record;
}

TEST(MigrationLedgerTest, CountsWhatIsUnderWayAndWhatIsUnresolved) {
  MigrationLedger ledger;
  ledger.Add(Record("m-1", MigrationState::kPreparing));
  ledger.Add(Record("m-2", MigrationState::kIndeterminate));
  ledger.Add(Record("m-3", MigrationState::kPending));
  ledger.Add(Record("m-3", MigrationState::kFailed));
  const std::map<MigrationState, size_t> open = ledger.totals().open;
  EXPECT_EQ(open.at(MigrationState::kPreparing), 1u);
  EXPECT_EQ(open.at(MigrationState::kIndeterminate), 1u);
  EXPECT_EQ(open.at(MigrationState::kPending), 0u) << "a state without one is there, and 0";
  EXPECT_FALSE(open.contains(MigrationState::kFailed));
}

TEST(MigrationLedgerTest, CountsEndsByOutcomeAndReasonOfThisProcessOnly) {
  MigrationLedger ledger;
  Migration failed = Record("m-1", MigrationState::kFailed);
  failed.failure.reason = "TARGET_DIED";
  ledger.Known(failed);
  EXPECT_TRUE(ledger.totals().ended.empty());
  failed.id = "m-2";
  ledger.Add(failed);
  const auto ended = ledger.totals().ended;
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended.begin()->first, std::pair(MigrationState::kFailed, std::string("TARGET_DIED")));
  EXPECT_EQ(ended.begin()->second, 1u);
}

TEST(MigrationLedgerTest, ReasonsWithoutEndMakeNoSeriesWithoutEnd) {
  MigrationLedger ledger;
  for (size_t i = 0; i < 2 * kMaxOutcomes; ++i) {
    Migration failed = Record(absl::StrCat("m-", i), MigrationState::kFailed);
    failed.failure.reason = absl::StrCat("REASON_", i);
    ledger.Add(failed);
  }
  const auto ended = ledger.totals().ended;
  EXPECT_EQ(ended.size(), kMaxOutcomes + 1);
  EXPECT_EQ(ended.at({MigrationState::kFailed, "OTHER"}), kMaxOutcomes);
}

TEST(MigrationLedgerTest, ABlackoutFallsIntoTheBucketThatItDoesNotExceed) {
  MigrationLedger ledger;
  for (const uint64_t blackout_ns :
       {kBlackoutBounds[1], kBlackoutBounds[1] + 1, kBlackoutBounds.back() + 1}) {
    Migration done = Record(absl::StrCat("m-", blackout_ns), MigrationState::kSucceeded);
    done.owner = GuestOwner::kTarget;
    done.strategy = Strategy::kMapMove;
    done.phases[REHOME_PHASE_PAUSE_REQUESTED] = 1000;
    done.phases[REHOME_PHASE_RUNNING] = 1000 + blackout_ns;
    ledger.Add(done);
  }
  const BlackoutHistogram histogram = ledger.totals().blackouts.at(Strategy::kMapMove);
  EXPECT_EQ(histogram.count, 3u);
  EXPECT_EQ(histogram.buckets[1], 1u);
  EXPECT_EQ(histogram.buckets[2], 1u);
  EXPECT_EQ(histogram.buckets.back(), 1u);
}

TEST(MigrationLedgerTest, ABlackoutThatNoMigrationCanHaveIsNotCounted) {
  MigrationLedger ledger;
  Migration done = Record("m-1", MigrationState::kSucceeded);
  done.owner = GuestOwner::kTarget;
  done.phases[REHOME_PHASE_PAUSE_REQUESTED] = 1;
  done.phases[REHOME_PHASE_RUNNING] = ~uint64_t{0};
  ledger.Add(done);
  EXPECT_TRUE(ledger.totals().blackouts.empty()) << "one VMM that lies would spoil the sum";
}

TEST(MigrationLedgerTest, CountsRescuesAndMigrationsTakenOverFromADaemonThatEnded) {
  MigrationLedger ledger;
  Migration record = Record("m-1", MigrationState::kHandingOver);
  record.restarts = 1;
  ledger.Known(record);
  EXPECT_EQ(ledger.totals().recovered, 0u);
  record.restarts = 2;
  ledger.Add(record);
  record.rescue.attempts = 2;
  ledger.Add(record);
  ledger.Add(record);
  EXPECT_EQ(ledger.totals().recovered, 1u);
  EXPECT_EQ(ledger.totals().rescue_attempts, 2u);
}

TEST(MigrationLedgerTest, MemoryBelongsToWhoeverNeedsItMost) {
  MigrationLedger ledger;
  ledger.Known(Record("m-1", MigrationState::kSucceeded));
  EXPECT_EQ(ledger.GuestMemory().at(kMemory), MemoryUse::kFinished);
  ledger.Add(Record("m-2", MigrationState::kPreparing));
  EXPECT_EQ(ledger.GuestMemory().at(kMemory), MemoryUse::kActive) << "the same guest moves again";
  ledger.Add(Record("m-2", MigrationState::kIndeterminate));
  EXPECT_EQ(ledger.GuestMemory().at(kMemory), MemoryUse::kIndeterminate);
  ledger.Add(Record("m-2", MigrationState::kSucceeded));
  EXPECT_EQ(ledger.GuestMemory().at(kMemory), MemoryUse::kFinished);
}

TEST(MigrationLedgerTest, ForgetsTheOldestMemoryOfManyMigrations) {
  MigrationLedger ledger;
  Migration done = Record("m-0", MigrationState::kSucceeded);
  ledger.Known(done);
  done.memory_inodes.clear();
  for (size_t i = 0; i < kMaxFinishedInodes; ++i) {
    done.memory_inodes.push_back({.device = 2, .inode = i});
  }
  ledger.Known(done);
  EXPECT_EQ(ledger.GuestMemory().size(), kMaxFinishedInodes);
  EXPECT_FALSE(ledger.GuestMemory().contains(kMemory));
}

// The whole account as the daemon keeps it: a descriptor that outlives its migration shows.
TEST(MigrationLedgerTest, ALeakedDescriptorShowsAsPinnedByAFinishedMigration) {
  const UniqueFd leaked(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(leaked.borrow().raw(), 1 << 20), 0);
  MemoryJournal journal;
  MigrationLedger ledger;
  const std::unique_ptr<Journal> watched = NewLedgerJournal(&journal, &ledger);
  Migration record = Record("m-1", MigrationState::kPreparing);
  record.revision = 1;
  record.memory_inodes = {Identify(leaked.borrow())->id};
  ASSERT_TRUE(watched->Append(record).ok());
  EXPECT_EQ(CountPinnedMemory(ledger.GuestMemory())->active, 1u << 20);
  record.revision = 2;
  record.state = MigrationState::kFailed;
  ASSERT_TRUE(watched->Append(record).ok());
  EXPECT_EQ(*CountPinnedMemory(ledger.GuestMemory()), (PinnedBytes{.finished = 1 << 20}));
}

TEST(MigrationLedgerTest, AnAdmissionThatIsNotJournalledIsNotCounted) {
  MemoryJournal journal;
  MigrationLedger ledger;
  const std::unique_ptr<Journal> watched = NewLedgerJournal(&journal, &ledger);
  Migration record = Record("m-1", MigrationState::kPending);
  record.revision = 1;
  journal.FailAppends([](const Migration&) { return MemoryJournal::Full(); });
  EXPECT_FALSE(watched->Append(record).ok());
  EXPECT_EQ(ledger.totals().open.at(MigrationState::kPending), 0u);
}

}  // namespace
}  // namespace rehome
