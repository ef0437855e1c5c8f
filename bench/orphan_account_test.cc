// SPDX-License-Identifier: Apache-2.0
#include "bench/orphan_account.h"

#include <gtest/gtest.h>

namespace rehome::bench {
namespace {

constexpr double kDeadline = 600;

TEST(OrphanAccountTest, EachPlaceHasALineAndAllTogetherTheLast) {
  const std::vector<OrphanPlace> places =
      Account({{"claimed", 90}, {"committed", 250}, {"claimed", 110}}, kDeadline);
  ASSERT_EQ(places.size(), 3u);
  EXPECT_EQ(places[0].place, "claimed");
  EXPECT_EQ(places[0].count, 2u);
  EXPECT_EQ(places[0].max_ms, 110);
  EXPECT_EQ(places[1].place, "committed");
  EXPECT_EQ(places[2].place, "all");
  EXPECT_EQ(places[2].count, 3u);
  EXPECT_EQ(places[2].p50_ms, 110);
  EXPECT_EQ(places[2].max_ms, 250);
}

TEST(OrphanAccountTest, WhoRunsAgainBeforeTheDeadlineIsNotLate) {
  const std::vector<OrphanPlace> places = Account({{"claimed", 599}}, kDeadline);
  EXPECT_EQ(places.back().max_late_ms, 0);
  EXPECT_TRUE(KeepsPromise(places));
}

TEST(OrphanAccountTest, OneGuestThatIsTooLateBreaksThePromise) {
  EXPECT_TRUE(KeepsPromise(Account({{"claimed", 90}, {"claimed", 610}}, kDeadline)));
  EXPECT_FALSE(KeepsPromise(Account({{"claimed", 90}, {"claimed", 611}}, kDeadline)));
}

TEST(OrphanAccountTest, NothingMeasuredIsNoPromiseKept) {
  EXPECT_FALSE(KeepsPromise(Account({}, kDeadline)));
}

}  // namespace
}  // namespace rehome::bench
