// SPDX-License-Identifier: Apache-2.0
//
// The daemon's view of a handover block while a VMM writes anything into it. Promises: no wait
// outlasts its deadline, times that cannot be true are not shown, and a right to kill is given for
// one side only while nobody but us writes the word.
#include <algorithm>
#include <chrono>

#include "daemon/handover.h"
#include "tools/fuzz/fuzz_target.h"
#include "tools/fuzz/other_process.h"

namespace rehome::fuzz {
namespace {

// ns, as in handover_block_fuzz.cc.
constexpr uint64_t kWaitNs = 200000;
constexpr uint64_t kPatienceNs = 5000000000;

void CheckPhases(const HandoverBlock& block, uint64_t not_before) {
  const PhaseTimes times = block.Phases(not_before);
  const uint64_t now = rehome_monotonic_ns();
  uint64_t previous = not_before;
  for (uint64_t time : times) {
    if (time == 0) continue;
    REHOME_PROMISE(time >= previous && time <= now);
    previous = time;
  }
}

void CheckWait(const HandoverBlock& block, uint32_t verdicts) {
  const uint64_t start = rehome_monotonic_ns();
  block.WaitVerdictIn(verdicts, start + kWaitNs);
  REHOME_PROMISE(rehome_monotonic_ns() - start < kPatienceNs);
}

// The offsets of the words, and none that the daemon never reads again.
constexpr uint32_t kWords[] = {
    offsetof(rehome_block_header, verdict_word),  offsetof(rehome_block_header, source_ready_word),
    offsetof(rehome_block_header, fence_word),    offsetof(rehome_block_header, state_size),
    offsetof(rehome_block_header, phase_ns),      offsetof(rehome_block_header, phase_ns) + 4,
    offsetof(rehome_block_header, phase_ns) + 8,  offsetof(rehome_block_header, phase_ns) + 12,
    offsetof(rehome_block_header, phase_ns) + 24, offsetof(rehome_block_header, phase_ns) + 56,
};

// Most writes of a hostile VMM would hit nothing; half of the inputs aim.
std::vector<OtherProcess::Change> Aimed(std::vector<OtherProcess::Change> changes) {
  for (OtherProcess::Change& change : changes) {
    if ((change.mode & 0x80) != 0) change.offset = kWords[change.offset % std::size(kWords)];
    change.mode &= 1;
  }
  return changes;
}

Seed MakeSeed(const char* name, const std::vector<OtherProcess::Change>& changes) {
  Seed seed{.name = name, .bytes = {}};
  OtherProcess::AppendChanges(seed.bytes, changes);
  return seed;
}

}  // namespace

// What the other process writes.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const auto block = HandoverBlock::Create({.migration_id = "m-1",
                                            .state_capacity = 4096,
                                            .claim_timeout = std::chrono::milliseconds(1),
                                            .resolve_timeout = std::chrono::milliseconds(1),
                                            .strategy = Strategy::kMap,
                                            .fence_policy = FencePolicy::kBeforeResume});
  REHOME_PROMISE(block.ok());
  const uint64_t not_before = rehome_monotonic_ns();
  const auto changes = Aimed(OtherProcess::TakeChanges(in));
  bool quiet = changes.empty();
  {
    const OtherProcess other((*block)->fd(), changes);
    for (int i = 0; i < 4; ++i) CheckPhases(**block, not_before);
    CheckWait(**block, REHOME_VERDICTS_FINAL);
    CheckWait(**block, REHOME_VERDICT_BIT(REHOME_VERDICT_COMMITTED) | REHOME_VERDICTS_FINAL);
    (void)(*block)->SourceReady();
    (void)(*block)->AbortIfOpen();
  }
  // Nobody writes any more, whatever stands there now.
  const bool may_kill_target = (*block)->MayKill(REHOME_SIDE_TARGET);
  const bool may_kill_source = (*block)->MayKill(REHOME_SIDE_SOURCE);
  REHOME_PROMISE(!may_kill_target || !may_kill_source);
  REHOME_PROMISE(!quiet || (may_kill_target && (*block)->verdict() == REHOME_VERDICT_ABORTED));
  // A condemned target stays condemned; otherwise the source is out from now on.
  (*block)->SetFenceProven();
  REHOME_PROMISE((*block)->MayKill(REHOME_SIDE_TARGET) == may_kill_target);
  REHOME_PROMISE((*block)->MayKill(REHOME_SIDE_SOURCE) == !may_kill_target);
  return true;
}

std::vector<Seed> Seeds() {
  return {
      MakeSeed("quiet", {}),
      MakeSeed("verdict-counts-up", {{0, REHOME_VERDICT_ABORTED + 1, 0x80}}),
      MakeSeed("verdict-turns", {{0, REHOME_VERDICT_CLAIMED, 0x81}}),
      MakeSeed("fence-turns", {{2, REHOME_FENCE_STATE_SOURCE_CONDEMNED, 0x81}}),
      MakeSeed("phases-count-up", {{4, 1, 0x80}, {5, 0, 0x81}, {8, 7, 0x80}}),
  };
}

}  // namespace rehome::fuzz
