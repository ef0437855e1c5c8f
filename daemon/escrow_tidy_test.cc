// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_tidy.h"

#include <gtest/gtest.h>

namespace rehome {
namespace {

class CountingStore : public EscrowStore {
 public:
  bool supported() const override { return true; }
  absl::Status Put(const std::string&, const std::vector<EscrowItem>&) override {
    return absl::OkStatus();
  }
  absl::Status Remove(const std::string&) override { return absl::OkStatus(); }
  absl::Status Barrier() override { return absl::OkStatus(); }
  std::vector<NamedFd> Take(const std::string&) override { return {}; }
  std::vector<std::string> restored() const override { return {}; }
  size_t DropUnclaimed(const std::set<std::string>& unfinished) override {
    ++tidied;
    kept_for = unfinished;
    return 3;
  }
  size_t stored_fds() const override { return 3; }

  int tidied = 0;
  std::set<std::string> kept_for;
};

TEST(EscrowTidyTest, WhatBelongsToNoUnfinishedMigrationIsClosed) {
  CountingStore store;
  EXPECT_EQ(TidyEscrow(store, {"m-1"}, {}), 3u);
  EXPECT_EQ(store.kept_for, (std::set<std::string>{"m-1"}));
}

TEST(EscrowTidyTest, ATornTailOfWhatHadNotReturnedMissesNothing) {
  CountingStore store;
  EXPECT_EQ(TidyEscrow(store, {}, {.torn_bytes = 4096, .torn_frames = 1}), 3u);
}

TEST(EscrowTidyTest, AllIsKeptWhereARecordMayBeMissing) {
  CountingStore store;
  const JournalRepair losses[] = {{.torn_bytes = 4096, .torn_commits = 1},
                                  {.set_aside = "journal.db.damaged-1"},
                                  {.damaged_ids = {"m-2"}},
                                  {.of_earlier_start = true}};
  for (const JournalRepair& repair : losses) {
    EXPECT_EQ(TidyEscrow(store, {}, repair), std::nullopt);
  }
  EXPECT_EQ(store.tidied, 0) << "a guest may be in there";
}

}  // namespace
}  // namespace rehome
