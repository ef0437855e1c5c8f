// SPDX-License-Identifier: Apache-2.0
#include "bench/percentile.h"

#include <numeric>

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

std::vector<double> OneTo(size_t last) {
  std::vector<double> samples(last);
  std::iota(samples.begin(), samples.end(), 1);
  return samples;
}

TEST(PercentileTest, IsTheSmallestSampleThatThatManyDoNotExceed) {
  const std::vector<double> four = {10, 20, 30, 40};
  EXPECT_EQ(Percentile(four, 25), 10);
  EXPECT_EQ(Percentile(four, 26), 20);
  EXPECT_EQ(Percentile(four, 50), 20);
  EXPECT_EQ(Percentile(four, 75), 30);
  EXPECT_EQ(Percentile(four, 100), 40);
}

TEST(PercentileTest, EveryRankOfEverySizeHasEnoughSamplesBelowAndNotFewerWouldDo) {
  for (size_t size = 1; size <= 300; ++size) {
    const std::vector<double> samples = OneTo(size);
    for (size_t percent = 1; percent <= 100; ++percent) {
      // The sample k has k samples that do not exceed it.
      const auto rank = static_cast<size_t>(Percentile(samples, static_cast<double>(percent)));
      EXPECT_GE(rank * 100, percent * size) << size << " samples, " << percent << " %";
      EXPECT_TRUE(rank == 1 || (rank - 1) * 100 < percent * size)
          << size << " samples, " << percent << " %";
    }
  }
}

TEST(PercentileTest, AVerySmallPercentageIsTheSmallestSample) {
  EXPECT_EQ(Percentile(OneTo(10), 0.001), 1);
}

TEST(PercentileTest, NoSamplesGiveZero) { EXPECT_EQ(Percentile({}, 50), 0); }

TEST(SummaryTest, DoesNotNeedSortedSamples) {
  const Summary summary = Summarize({5, 1, 4, 2, 3});
  EXPECT_EQ(summary.count, 5u);
  EXPECT_EQ(summary.p50, 3);
  EXPECT_EQ(summary.p99, 5);
  EXPECT_EQ(summary.max, 5);
}

TEST(SummaryTest, OneOutlierInAHundredIsTheMaximumAndNotP99) {
  std::vector<double> samples(99, 300.0);
  samples.push_back(9000);
  const Summary summary = Summarize(samples);
  EXPECT_EQ(summary.p99, 300);
  EXPECT_EQ(summary.max, 9000);
}

TEST(SummaryTest, NothingMeasuredIsCountedAsNothing) {
  EXPECT_EQ(Summarize({}).count, 0u);
  EXPECT_EQ(Summarize({}).max, 0);
}

}  // namespace
}  // namespace rehome::bench
