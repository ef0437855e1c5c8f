// SPDX-License-Identifier: Apache-2.0
#include "bench/round_latency.h"

#include <gtest/gtest.h>

#include "vmm/reference/guest/rounds.h"

namespace rehome::bench {
namespace {

constexpr uint64_t kTscKhz = 1'000'000;  // a cycle is a nanosecond

std::vector<uint64_t> Counts(std::vector<std::pair<uint64_t, uint64_t>> cycles_and_count) {
  std::vector<uint64_t> counts(REHOME_GUEST_ROUND_BUCKETS);
  for (const auto& [cycles, count] : cycles_and_count) {
    counts[rehome_guest_round_bucket(cycles)] += count;
  }
  return counts;
}

TEST(RoundsTest, EveryBucketHoldsWhatLiesBetweenItsLeastAndTheNextOnes) {
  for (uint32_t i = 0; i + 1 < REHOME_GUEST_ROUND_BUCKETS; ++i) {
    const uint64_t least = rehome_guest_round_least(i), next = rehome_guest_round_least(i + 1);
    ASSERT_LT(least, next);
    EXPECT_EQ(rehome_guest_round_bucket(least), i);
    EXPECT_EQ(rehome_guest_round_bucket(next - 1), i);
    EXPECT_LE((next - least) * 16, std::max<uint64_t>(least, 16)) << "bucket " << i;
  }
  EXPECT_EQ(rehome_guest_round_bucket(~0ull), REHOME_GUEST_ROUND_BUCKETS - 1);
}

TEST(RoundLatencyTest, PercentilesAreThoseOfTheRoundsToOneSixteenth) {
  RoundLatency latency;
  latency.Add(Counts({{300, 989}, {4000, 10}, {700'000, 1}}), 700, kTscKhz);
  EXPECT_EQ(latency.rounds(), 1000u);
  EXPECT_NEAR(latency.PercentileUs(50), 0.3, 0.3 / 16);
  EXPECT_NEAR(latency.PercentileUs(98.9), 0.3, 0.3 / 16);
  EXPECT_NEAR(latency.PercentileUs(99), 4.0, 4.0 / 16);
  EXPECT_EQ(latency.PercentileUs(100), 700);
}

TEST(RoundLatencyTest, SeveralGuestsCountAsOne) {
  RoundLatency latency;
  latency.Add(Counts({{300, 3}}), 0.3, kTscKhz);
  latency.Add(Counts({{5000, 1}}), 5, kTscKhz);
  EXPECT_EQ(latency.rounds(), 4u);
  EXPECT_EQ(latency.longest_us(), 5);
  EXPECT_NEAR(latency.PercentileUs(75), 0.3, 0.3 / 16);
  EXPECT_EQ(latency.PercentileUs(76), 5);
}

TEST(RoundLatencyTest, WithoutRoundsThereIsNoLatency) {
  EXPECT_EQ(RoundLatency().rounds(), 0u);
  EXPECT_EQ(RoundLatency().PercentileUs(99), 0);
}

}  // namespace
}  // namespace rehome::bench
