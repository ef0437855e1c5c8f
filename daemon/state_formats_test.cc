// SPDX-License-Identifier: Apache-2.0
#include "daemon/state_formats.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint32_t kNewest = 5;

// Every range over 0 to kNewest, empty ones included.
std::vector<StateFormats> AllRanges() {
  std::vector<StateFormats> ranges;
  for (uint32_t oldest = 0; oldest <= kNewest; ++oldest) {
    for (uint32_t newest = 0; newest <= kNewest; ++newest) ranges.push_back({oldest, newest});
  }
  return ranges;
}

bool Contains(StateFormats formats, uint32_t format) {
  return formats.oldest <= format && format <= formats.newest;
}

// As the sentence says it: go down from the newest that is written until somebody reads it.
std::optional<uint32_t> ByTheBook(StateFormats writes, std::span<const StateFormats> reads) {
  for (uint32_t format = kNewest + 1; format-- > 0;) {
    if (!Contains(writes, format)) continue;
    for (const StateFormats& range : reads) {
      if (Contains(range, format)) return format;
    }
  }
  return std::nullopt;
}

TEST(ChooseStateFormatTest, TakesTheNewestThatBothKnowInEveryCombination) {
  for (const StateFormats writes : AllRanges()) {
    for (const StateFormats reads : AllRanges()) {
      const std::vector<StateFormats> one = {reads};
      EXPECT_EQ(ChooseStateFormat(writes, one), ByTheBook(writes, one))
          << writes.oldest << ".." << writes.newest << " and " << reads.oldest << ".."
          << reads.newest;
    }
  }
}

TEST(ChooseStateFormatTest, TakesTheNewestOfAProfilesListInEveryCombination) {
  for (const StateFormats writes : AllRanges()) {
    for (uint32_t set = 0; set < 1u << (kNewest + 1); ++set) {
      std::vector<uint32_t> listed;
      for (uint32_t format = 0; format <= kNewest; ++format) {
        if ((set >> format & 1) != 0) listed.push_back(format);
      }
      const std::vector<StateFormats> reads = EachAlone(listed);
      EXPECT_EQ(ChooseStateFormat(writes, reads), ByTheBook(writes, reads))
          << writes.oldest << ".." << writes.newest << " and the set " << set;
    }
  }
}

TEST(ChooseStateFormatTest, TheLargestNumbersDoNotWrapAround) {
  const StateFormats all = {0, UINT32_MAX};
  EXPECT_EQ(ChooseStateFormat(all, {{all}}), UINT32_MAX);
  EXPECT_EQ(ChooseStateFormat({UINT32_MAX, UINT32_MAX}, {{{0, 1}}}), std::nullopt);
}

TEST(AgreeOnStateFormatTest, ARefusalNamesBothAndTheirFormats) {
  const std::vector<uint32_t> listed = {1, 2};
  const auto by_profile =
      AgreeOnStateFormat("rehome-vmm 2.0", {3, 3}, "profile old", EachAlone(listed));
  EXPECT_EQ(ReasonOf(by_profile.status()), "STATE_FORMAT_UNSUPPORTED");
  EXPECT_EQ(
      by_profile.status().message(),
      "the source VMM rehome-vmm 2.0 writes state format 3 for this guest, the target profile "
      "old reads 1, 2");
  const auto by_vmm = AgreeOnStateFormat("a 9", {4, 7}, "VMM b 1", {{{1, 3}}});
  EXPECT_EQ(by_vmm.status().message(),
            "the source VMM a 9 writes state format 4 to 7 for this guest, the target VMM b 1 "
            "reads 1 to 3");
}

// An agent of before there was a choice says 0, as it does with every reserved field.
TEST(WritesOfTest, ADescriptionWithoutAnOldestOffersOneFormat) {
  VmDescription vm;
  vm.state_format = 2;
  EXPECT_EQ(WritesOf(vm).oldest, 2u);
  EXPECT_EQ(WritesOf(vm).newest, 2u);
  vm.state_format_oldest = 1;
  EXPECT_EQ(WritesOf(vm).oldest, 1u);
}

}  // namespace
}  // namespace rehome
