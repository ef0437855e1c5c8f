// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_tables.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

namespace rehome::sim {
namespace {

std::vector<std::pair<uint64_t, uint64_t>> Pairs(const std::vector<PrivateRange>& ranges) {
  std::vector<std::pair<uint64_t, uint64_t>> pairs;
  for (const PrivateRange& range : ranges) pairs.emplace_back(range.start, range.end);
  return pairs;
}

using Expected = std::vector<std::pair<uint64_t, uint64_t>>;

TEST(WithAttributeTest, NeighboursAreJoined) {
  EXPECT_EQ(Pairs(WithAttribute(std::vector<PrivateRange>{{0, 4}, {8, 12}}, {4, 8}, true)),
            (Expected{{0, 12}}));
}

TEST(WithAttributeTest, ClearingTheMiddleSplits) {
  EXPECT_EQ(Pairs(WithAttribute(std::vector<PrivateRange>{{0, 12}}, {4, 8}, false)),
            (Expected{{0, 4}, {8, 12}}));
}

TEST(WithAttributeTest, ClearingAcrossRangesTrimsBothEnds) {
  EXPECT_EQ(Pairs(WithAttribute(std::vector<PrivateRange>{{0, 4}, {5, 6}, {7, 12}}, {2, 9}, false)),
            (Expected{{0, 2}, {9, 12}}));
}

TEST(WithAttributeTest, AgreesWithOneFlagPerPage) {
  constexpr uint64_t kPages = 64;
  std::minstd_rand random(1);
  std::vector<bool> model(kPages, false);
  std::vector<PrivateRange> ranges;
  for (int i = 0; i < 5000; ++i) {
    uint64_t start = random() % kPages;
    uint64_t end = random() % kPages;
    if (start > end) std::swap(start, end);
    const bool is_private = random() % 2 == 0;
    ++end;
    for (uint64_t page = start; page < end; ++page) model[page] = is_private;
    ranges = WithAttribute(ranges, {start, end}, is_private);

    std::vector<bool> actual(kPages, false);
    uint64_t last_end = 0;
    for (size_t r = 0; r < ranges.size(); ++r) {
      ASSERT_LT(ranges[r].start, ranges[r].end);
      if (r > 0) {
        ASSERT_GT(ranges[r].start, last_end) << "sorted, not touching";
      }
      last_end = ranges[r].end;
      for (uint64_t page = ranges[r].start; page < last_end; ++page) actual[page] = true;
    }
    ASSERT_EQ(actual, model);
  }
}

TEST(AttributeTableTest, CopyTakesWhatIsUsed) {
  const auto from = std::make_unique<AttributeTable>();
  const auto to = std::make_unique<AttributeTable>();
  const std::vector<PrivateRange> ranges = {{0, 4}, {8, 12}};
  from->Assign(ranges);
  *to = *from;
  ASSERT_EQ(to->used().size(), 2u);
  EXPECT_EQ(to->used()[1].start, 8u);
  from->Assign({});
  *to = *from;
  EXPECT_TRUE(to->used().empty());
}

TEST(SortedSlotsTest, GivesUsedSlotsOfOneAddressSpaceByGpa) {
  const auto table = std::make_unique<SlotTable>();
  table->slots[0][5] = {.gpa = 0x2000, .size = 0x1000};
  table->slots[0][9] = {.gpa = 0x1000, .size = 0x1000};
  table->slots[1][0] = {.gpa = 0, .size = 0x1000};
  const std::vector<Slot> sorted = SortedSlots(*table, 0);
  ASSERT_EQ(sorted.size(), 2u);
  EXPECT_EQ(sorted[0].gpa, 0x1000u);
  EXPECT_EQ(sorted[1].gpa, 0x2000u);
  EXPECT_EQ(SortedSlots(*table, 1).size(), 1u);
}

}  // namespace
}  // namespace rehome::sim
