// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sweep.h"

#include <gtest/gtest.h>

#include <iostream>

namespace rehome::sim {
namespace {

class SweepTest : public testing::TestWithParam<Story> {};

TEST_P(SweepTest, TheStoryEndsAsItsNameSaysWithoutACrash) {
  const Result result = Simulate(GetParam().plan);
  EXPECT_EQ(result.violation, "");
  ASSERT_EQ(result.records.size(), 1u);
  EXPECT_EQ(result.records[0].state, GetParam().ends);
}

TEST_P(SweepTest, NoPairOfDaemonCrashesAtAnyAppendBreaksAPromise) {
  const SweepResult swept = Sweep(GetParam().plan);
  std::cout << GetParam().name << ": " << swept.cases << " cases\n";
  // Each append of the shortest story, before and after, and each again in the run that follows.
  EXPECT_GT(swept.cases, 100u);
  EXPECT_TRUE(swept.violations.empty());
  for (const std::string& violation : swept.violations) ADD_FAILURE() << violation;
}

INSTANTIATE_TEST_SUITE_P(Stories, SweepTest, testing::ValuesIn(Stories()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace rehome::sim
