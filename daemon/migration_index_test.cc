// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_index.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace rehome {
namespace {

Migration Record(uint64_t number, const std::string& request_id = "") {
  Migration record;
  record.id = absl::StrFormat("m-%016x", number);
  record.request.vm_id = absl::StrCat("vm-", number);
  record.request.request_id = request_id;
  record.state = MigrationState::kSucceeded;
  return record;
}

std::vector<std::string> Ids(const MigrationIndex& index, const std::string& after = "",
                             size_t limit = 100) {
  std::vector<std::string> ids;
  index.Walk(after, [&](const MigrationEntry& entry) {
    ids.push_back(entry.id);
    return ids.size() < limit;
  });
  return ids;
}

TEST(MigrationIndexTest, WalksNewestFirstAndGoesOnAfterAnId) {
  MigrationIndex index(10);
  for (uint64_t i = 1; i <= 4; ++i) index.Add(Record(i), nullptr);
  EXPECT_EQ(Ids(index),
            (std::vector<std::string>{Record(4).id, Record(3).id, Record(2).id, Record(1).id}));
  EXPECT_EQ(Ids(index, Record(3).id), (std::vector<std::string>{Record(2).id, Record(1).id}));
  EXPECT_EQ(Ids(index, "", 1), std::vector<std::string>{Record(4).id});
  EXPECT_TRUE(Ids(index, Record(1).id).empty());
  EXPECT_TRUE(Ids(index, "m-pruned").empty());
}

TEST(MigrationIndexTest, TheOldestFinishedOnesArePrunedAndUnfinishedOnesNever) {
  MigrationIndex index(2);
  index.Add(Record(1), std::make_shared<ActiveMigration>());
  for (uint64_t i = 2; i <= 5; ++i) index.Add(Record(i, absl::StrCat("req-", i)), nullptr);
  EXPECT_EQ(Ids(index), (std::vector<std::string>{Record(5).id, Record(4).id, Record(1).id}));
  EXPECT_EQ(index.Find(Record(2).id), nullptr);
  EXPECT_EQ(index.FindRequest("req-2"), nullptr);
  EXPECT_NE(index.FindRequest("req-5"), nullptr);

  index.Finish(index.Find(Record(1).id), Record(1), /*journalled=*/true);
  EXPECT_EQ(index.Find(Record(1).id), nullptr) << "now it is the oldest finished one";
}

TEST(MigrationIndexTest, ARequestIdFindsItsNewestMigrationAlsoWhenTheOlderIsPruned) {
  MigrationIndex index(1);
  index.Add(Record(1, "same"), nullptr);
  index.Add(Record(2, "same"), nullptr);
  ASSERT_EQ(index.Find(Record(1).id), nullptr);
  EXPECT_EQ(index.FindRequest("same")->id, Record(2).id);
}

TEST(MigrationIndexTest, WhatIsNotInTheJournalIsKeptWhole) {
  MigrationIndex index(2);
  for (uint64_t i : {1, 2}) index.Add(Record(i), std::make_shared<ActiveMigration>());
  index.Finish(index.Find(Record(1).id), Record(1), /*journalled=*/true);
  index.Finish(index.Find(Record(2).id), Record(2), /*journalled=*/false);
  EXPECT_EQ(index.Find(Record(1).id)->unjournalled, nullptr);
  ASSERT_NE(index.Find(Record(2).id)->unjournalled, nullptr);
  EXPECT_EQ(*index.Find(Record(2).id)->unjournalled, Record(2));
  EXPECT_EQ(index.Find(Record(2).id)->active, nullptr);
}

TEST(MigrationIndexTest, AFinishedMigrationTakesLittleMemory) {
  constexpr size_t kCount = 2000, kMaxBytesEach = 1024;
  const std::string request_id(36, 'r');
  const size_t before = mallinfo2().uordblks;
  MigrationIndex index(kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    Migration record = Record(i, absl::StrCat(request_id, i));
    record.preflight.assign(20, {"check", PreflightCheck::Result::kPassed, "", "detail"});
    index.Add(record, nullptr);
  }
  const size_t used = mallinfo2().uordblks - before;
  EXPECT_LT(used / kCount, kMaxBytesEach);
  EXPECT_EQ(Ids(index, "", kCount).size(), kCount);
}

}  // namespace
}  // namespace rehome
