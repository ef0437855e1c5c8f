// SPDX-License-Identifier: Apache-2.0
//
// The handover block of the simulated world: the same words and the same table of edges as
// vmm/agent/handover_block.h, without the page.
#ifndef REHOME_TESTS_SIMULATOR_BLOCK_H_
#define REHOME_TESTS_SIMULATOR_BLOCK_H_

#include <cstdint>
#include <string>

#include "daemon/migration.h"
#include "vmm/agent/handover_block.h"

namespace rehome::sim {

using Micros = uint64_t;
inline constexpr Micros kMillisecond = 1000;
inline constexpr Micros kSecond = 1000 * kMillisecond;

enum class Ready : uint8_t { kNo = 0, kComplete = 1, kCancelled = 2 };

struct Block {
  std::string migration;
  bool moves = false;
  FencePolicy policy = FencePolicy::kBeforeResume;
  Micros claim_timeout = 200 * kMillisecond;
  Micros resolve_timeout = kSecond;
  uint32_t verdict = REHOME_VERDICT_OPEN;
  uint32_t fence = REHOME_FENCE_STATE_OPEN;
  Ready ready = Ready::kNo;
  uint64_t saved = 0;  // the guest's progress, as the source saved it
  Micros claimed_at = 0;

  // By compare-and-swap, and along the agent's own table only.
  bool Swap(uint32_t from, uint32_t to) {
    if (rehome_verdict_has_edge(from, to) == 0 || verdict != from) return false;
    verdict = to;
    if (to == REHOME_VERDICT_ABORTED && ready == Ready::kNo) ready = Ready::kCancelled;
    return true;
  }
  // Whether `side` may be killed now.
  bool Condemn(rehome_side side) {
    if (fence == REHOME_FENCE_STATE_OPEN) fence = static_cast<uint32_t>(side);
    const bool proven = side == REHOME_SIDE_SOURCE && fence == REHOME_FENCE_STATE_PROVEN;
    return fence == static_cast<uint32_t>(side) || proven;
  }
  void SetProven() { fence = REHOME_FENCE_STATE_PROVEN; }
};

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_BLOCK_H_
