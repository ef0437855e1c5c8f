// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sweep.h"

#include <gtest/gtest.h>

#include <iostream>

namespace rehome::sim {
namespace {

// Each with other delays.
constexpr uint64_t kWorlds = 4;

class SweepTest : public testing::TestWithParam<Story> {};

TEST_P(SweepTest, TheStoryEndsAsItsNameSaysWithoutACrash) {
  const Result result = Simulate(GetParam().plan);
  EXPECT_EQ(result.violation, "");
  ASSERT_EQ(result.records.size(), 1u);
  EXPECT_EQ(result.records[0].state, GetParam().ends);
  EXPECT_EQ(result.resolves > 0, GetParam().undecided);
}

TEST_P(SweepTest, NoPairOfDaemonCrashesAtAnyAppendBreaksAPromise) {
  size_t cases = 0;
  for (uint64_t seed = 1; seed <= kWorlds; ++seed) {
    Plan plan = GetParam().plan;
    plan.seed = seed;
    const SweepResult swept = Sweep(plan);
    cases += swept.cases;
    for (const std::string& violation : swept.violations) {
      ADD_FAILURE() << "world " << seed << ", " << violation;
    }
  }
  std::cout << GetParam().name << ": " << cases << " cases\n";
  // Each append of the shortest story, before and after, and each again in the run that follows.
  EXPECT_GT(cases, 20 * kWorlds);
}

INSTANTIATE_TEST_SUITE_P(Stories, SweepTest, testing::ValuesIn(Stories()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace rehome::sim
