// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace rehome {
namespace {

TEST(MigrationTest, EveryStateHasANameOfItsOwnAndFourAreTerminal) {
  std::set<std::string> names;
  size_t terminal = 0;
  for (size_t i = 1; i <= kMigrationStateCount; ++i) {
    const auto state = static_cast<MigrationState>(i);
    names.insert(MigrationStateName(state));
    if (IsTerminal(state)) ++terminal;
  }
  EXPECT_EQ(names.size(), kMigrationStateCount);
  EXPECT_FALSE(names.contains("?"));
  EXPECT_EQ(terminal, 4u);
}

TEST(MigrationTest, EveryStepHasANameOfItsOwn) {
  std::set<std::string> names;
  for (size_t i = 1; i <= kStepCount; ++i) names.insert(StepName(static_cast<Step>(i)));
  EXPECT_EQ(names.size(), kStepCount);
  EXPECT_FALSE(names.contains("?"));
}

TEST(MigrationTest, AFenceProofNeedsTheExitASearchAndNoForeignHolder) {
  FenceProof proof;
  EXPECT_FALSE(proof.complete());
  proof.process_exited = true;
  EXPECT_FALSE(proof.complete()) << "nobody searched for holders";
  proof.inodes_checked = 2;
  EXPECT_TRUE(proof.complete());
  proof.foreign_holders.push_back({1234, "leaked-child", "fd"});
  EXPECT_FALSE(proof.complete());
  proof = {};
  proof.kernel_vm_dead = true;
  proof.inodes_checked = 2;
  EXPECT_FALSE(proof.complete()) << "a dead VM's process can still write to mapped memory";
}

}  // namespace
}  // namespace rehome
