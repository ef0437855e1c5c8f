// SPDX-License-Identifier: Apache-2.0
#include "bench/hop_sample.h"

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

const HopSamples kSamples = {
    {.blackout_us = 300, .guest_gap_us = 350, .phases_us = {{"stop", 100}, {"save", 200}}},
    {.blackout_us = 500, .guest_gap_us = 900, .phases_us = {{"stop", 400}, {"save", 100}}},
    {.blackout_us = 400, .guest_gap_us = 450, .phases_us = {{"stop", 250}, {"save", 150}}},
};

TEST(HopSampleTest, EachFigureIsSummarizedByItself) {
  EXPECT_EQ(BlackoutOf(kSamples).p50, 400);
  EXPECT_EQ(BlackoutOf(kSamples).max, 500);
  EXPECT_EQ(GuestGapOf(kSamples).p50, 450);
  EXPECT_EQ(GuestGapOf(kSamples).count, 3u);
}

TEST(HopSampleTest, PhasesKeepTheirOrder) {
  const auto medians = PhaseMedians(kSamples);
  ASSERT_EQ(medians.size(), 2u);
  EXPECT_EQ(medians[0], (std::pair<std::string, double>("stop", 250)));
  EXPECT_EQ(medians[1], (std::pair<std::string, double>("save", 150)));
}

TEST(HopSampleTest, AHopWithoutPhasesDoesNotCountAsZero) {
  HopSamples samples = kSamples;
  samples.push_back({.blackout_us = 1});
  samples.push_back({.blackout_us = 1});
  EXPECT_EQ(PhaseMedians(samples)[0].second, 250);
  EXPECT_TRUE(PhaseMedians({}).empty());
}

}  // namespace
}  // namespace rehome::bench
