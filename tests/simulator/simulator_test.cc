// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/simulator/simulation.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kSeeds = 4000;
constexpr uint64_t kBlocks = 16;
// The others keep the journal in memory; each SQLite journal costs files and transactions.
constexpr uint64_t kOneInSqlite = 50;

class SimulatorTest : public testing::TestWithParam<uint64_t> {};

TEST_P(SimulatorTest, NoSeedBreaksAPromise) {
  const uint64_t first = 1 + GetParam() * (kSeeds / kBlocks);
  for (uint64_t seed = first; seed < first + kSeeds / kBlocks; ++seed) {
    Plan plan = PlanOf(seed);
    if (seed % kOneInSqlite == 0) {
      plan.sqlite_directory = absl::StrCat(testing::TempDir(), "/sim-", seed);
      std::filesystem::remove_all(plan.sqlite_directory);  // of an earlier run
    }
    const Result result = Simulate(plan);
    EXPECT_EQ(result.violation, "")
        << "see it with: ./dev simulate --seed " << seed << " --verbose";
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, SimulatorTest, testing::Range<uint64_t>(0, kBlocks));

TEST(SimulatorTest, TheSameSeedIsTheSameRun) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Plan plan = PlanOf(seed);
    plan.verbose = true;
    const Result first = Simulate(plan);
    const Result second = Simulate(plan);
    EXPECT_EQ(first.log, second.log) << seed;
  }
}

}  // namespace
}  // namespace rehome::sim
