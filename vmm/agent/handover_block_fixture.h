// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_AGENT_HANDOVER_BLOCK_FIXTURE_H_
#define REHOME_VMM_AGENT_HANDOVER_BLOCK_FIXTURE_H_

#include <unistd.h>

#include "gtest/gtest.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome {

inline constexpr uint64_t kSecond = 1000000000;
// Bound of waits for what must happen.
inline constexpr uint64_t kPatience = 20 * kSecond;

inline rehome_block_params GoodParams() {
  return {.migration_id = "m-1",
          .state_capacity = 20000,
          .claim_timeout_ns = kSecond,
          .resolve_timeout_ns = 2 * kSecond,
          .fence_policy = REHOME_FENCE_AFTER_RESUME,
          .strategy = REHOME_STRATEGY_MAP};
}

class HandoverBlockFixture : public testing::Test {
 protected:
  void SetUp() override {
    rehome_block_params params = GoodParams();
    fd_ = rehome_block_create(&params);
    ASSERT_GE(fd_, 0);
    ASSERT_EQ(rehome_block_map(fd_, &block_), 0);
  }
  void TearDown() override {
    rehome_block_unmap(&block_);
    close(fd_);
  }
  void SetVerdict(uint32_t verdict) {
    __atomic_store_n(&block_.shared->verdict_word, verdict, __ATOMIC_SEQ_CST);
  }
  void SetWord(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
  static uint64_t Soon() { return rehome_monotonic_ns() + kPatience; }
  static uint64_t Past() { return 1; }

  int fd_ = -1;
  rehome_block block_ = {};
};

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_HANDOVER_BLOCK_FIXTURE_H_
