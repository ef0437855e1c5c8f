// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

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

const InodeId kOne{.device = 1, .inode = 10};
const InodeId kTwo{.device = 1, .inode = 11};
const InodeHolder kTargetHolds{20, "vmm", "mapping", HolderClass::kTarget};

FenceProof ProofOf(const std::vector<InodeId>& inodes) {
  FenceProof proof;
  proof.process_exited = true;
  proof.exited_ns = 5;
  proof.search.begun_ns = 6;
  for (const InodeId& inode : inodes) {
    proof.search.memory.push_back({.inode = inode, .holders = {kTargetHolds}, .foreign = 0});
  }
  return proof;
}

TEST(MigrationTest, AFenceProofNeedsTheExitAndASearchForEveryInodeAfterIt) {
  EXPECT_TRUE(ProofOf({kOne, kTwo}).complete({kOne, kTwo}));
  EXPECT_FALSE(ProofOf({kOne}).complete({kOne, kTwo})) << "one was not searched for";
  EXPECT_FALSE(ProofOf({}).complete({})) << "nothing was searched for";
  FenceProof alive = ProofOf({kOne});
  alive.process_exited = false;
  alive.kernel_vm_dead = true;
  EXPECT_FALSE(alive.complete({kOne})) << "a dead VM's process can still write to mapped memory";
  FenceProof early = ProofOf({kOne});
  early.search.begun_ns = early.exited_ns - 1;
  EXPECT_FALSE(early.complete({kOne})) << "searched before the source was gone";
}

TEST(MigrationTest, AFenceProofNeedsTheTargetAndNobodyElseBehindEachInode) {
  FenceProof proof = ProofOf({kOne, kTwo});
  proof.search.memory[1].holders.push_back({30, "rehomed", "fd", HolderClass::kDaemon});
  EXPECT_TRUE(proof.complete({kOne, kTwo})) << "our own escrow is closed afterwards";
  proof.search.memory[1].foreign = 1;
  EXPECT_FALSE(proof.complete({kOne, kTwo})) << "foreign, whether listed or not";
  FenceProof blind = ProofOf({kOne});
  blind.search.memory[0].holders = {{30, "rehomed", "fd", HolderClass::kDaemon}};
  EXPECT_FALSE(blind.complete({kOne})) << "a search that does not see the target sees nothing";
}

TEST(MigrationTest, AForeignHolderOfSeveralInodesIsNamedOnce) {
  FenceProof proof = ProofOf({kOne, kTwo});
  const InodeHolder leak{1234, "leaked-child", "fd", HolderClass::kForeign};
  for (InodeSearch& search : proof.search.memory) search.holders.push_back(leak);
  EXPECT_EQ(proof.search.Foreign(), std::vector<InodeHolder>{leak});
}

}  // namespace
}  // namespace rehome
