// SPDX-License-Identifier: Apache-2.0
#include "bench/step_ways.h"

#include <gtest/gtest.h>

#include <set>

namespace rehome::bench {
namespace {

HopSamples Samples(std::vector<double> blackouts, double save_us) {
  HopSamples samples;
  for (const double us : blackouts) {
    samples.push_back(
        {.blackout_us = us, .phases_us = {{"stop_vcpus", 50}, {"save_state", save_us}}});
  }
  return samples;
}

TEST(StepWaysTest, NamesAreUniqueAndEachWayDoesSomething) {
  std::set<std::string> names;
  for (const StepWay& way : AllStepWays()) {
    EXPECT_TRUE(names.insert(way.name).second) << way.name;
    EXPECT_FALSE(way.arguments.empty()) << way.name;
  }
}

TEST(StepWaysTest, OneVcpuIsNotComparedWhereOnlyTwoDiffer) {
  for (const StepWay& way : StepWaysFor({}, 1)) EXPECT_EQ(way.min_vcpus, 1u) << way.name;
  EXPECT_EQ(StepWaysFor({}, 2).size(), AllStepWays().size());
  EXPECT_TRUE(StepWaysFor({"parallel"}, 1).empty());
  ASSERT_EQ(StepWaysFor({"parallel", "learn"}, 2).size(), 2u);
}

TEST(StepWaysTest, RatioIsOfTheMedians) {
  EXPECT_DOUBLE_EQ(RoundRatio(Samples({100, 200, 900}, 1), Samples({300, 300, 301}, 1)), 1.5);
}

TEST(StepWaysTest, ThePhaseThatChangedMostIsNamed) {
  const PhaseChange change = MostChangedPhase(Samples({100}, 40), Samples({90}, 25));
  EXPECT_EQ(change.phase, "save_state");
  EXPECT_DOUBLE_EQ(change.micros, -15);
  EXPECT_EQ(MostChangedPhase({}, {}).phase, "");
}

}  // namespace
}  // namespace rehome::bench
