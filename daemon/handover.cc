// SPDX-License-Identifier: Apache-2.0
#include "daemon/handover.h"

#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

uint32_t WireStrategy(Strategy strategy) {
  switch (strategy) {
    case Strategy::kLinkMove:
      return REHOME_STRATEGY_LINK_MOVE;
    case Strategy::kMapMove:
      return REHOME_STRATEGY_MAP_MOVE;
    case Strategy::kLink:
      return REHOME_STRATEGY_LINK;
    case Strategy::kMap:
      return REHOME_STRATEGY_MAP;
  }
  return 0;
}

uint32_t WireFencePolicy(FencePolicy policy) {
  switch (policy) {
    case FencePolicy::kKernel:
      return REHOME_FENCE_KERNEL;
    case FencePolicy::kUnspecified:
    case FencePolicy::kBeforeResume:
      return REHOME_FENCE_BEFORE_RESUME;
    case FencePolicy::kAfterResume:
      return REHOME_FENCE_AFTER_RESUME;
  }
  return 0;
}

absl::Status BlockError(const char* what, int negative_errno) {
  return MakeStatus(absl::StatusCode::kResourceExhausted, "NO_HANDOVER_BLOCK",
                    absl::StrCat(what, ": ", strerror(-negative_errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HandoverBlock>> HandoverBlock::Create(const Params& params) {
  const rehome_block_params wire = {
      .migration_id = params.migration_id.c_str(),
      .state_capacity = params.state_capacity,
      .claim_timeout_ns = static_cast<uint64_t>(params.claim_timeout.count()),
      .resolve_timeout_ns = static_cast<uint64_t>(params.resolve_timeout.count()),
      .fence_policy = WireFencePolicy(params.fence_policy),
      .strategy = WireStrategy(params.strategy),
  };
  const int raw = rehome_block_create(&wire);
  if (raw < 0) return BlockError("creating the handover block", raw);
  std::unique_ptr<HandoverBlock> created(new HandoverBlock(UniqueFd(raw)));
  const int mapped = created->Map();
  if (mapped < 0) return BlockError("mapping the handover block", mapped);
  return created;
}

absl::StatusOr<std::unique_ptr<HandoverBlock>> HandoverBlock::Adopt(
    UniqueFd fd, const std::string& migration_id) {
  std::unique_ptr<HandoverBlock> adopted(new HandoverBlock(std::move(fd)));
  const int mapped = adopted->Map();
  if (mapped == 0 && migration_id == adopted->block_.migration_id) return adopted;
  if (mapped == -ENOMEM) return BlockError("mapping a handover block", mapped);
  const std::string what = mapped < 0 ? strerror(-mapped) : adopted->block_.migration_id;
  return MakeStatus(absl::StatusCode::kDataLoss, "ESCROW_DAMAGED",
                    absl::StrCat("no handover block of ", migration_id, ": ", what));
}

HandoverBlock::~HandoverBlock() {
  if (block_.shared != nullptr) rehome_block_unmap(&block_);
}

void HandoverBlock::WaitVerdictIn(uint32_t verdicts, uint64_t deadline_ns) const {
  (void)rehome_block_wait_verdict_in(&block_, verdicts, deadline_ns);
}

bool HandoverBlock::AbortIfOpen() {
  return rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED) == 0;
}

bool HandoverBlock::MayKill(rehome_side side) { return rehome_block_condemn(&block_, side) == 0; }

bool HandoverBlock::AbortFrom(uint32_t from) {
  return rehome_block_move_verdict(&block_, from, REHOME_VERDICT_ABORTED) == 0;
}

bool HandoverBlock::SourceReady() const {
  return std::atomic_ref<uint32_t>(block_.shared->source_ready_word)
             .load(std::memory_order_acquire) == REHOME_SOURCE_READY;
}

absl::Status HandoverBlock::AnnounceStateOf(const HandoverBlock& saved) {
  const uint64_t size = saved.SourceReady() ? rehome_block_state_size(&saved.block_) : 0;
  if (size == 0 || size > block_.state_capacity) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "NO_SAVED_STATE",
                      absl::StrCat("the block holds ", size, " bytes of state"));
  }
  std::memcpy(block_.state, saved.block_.state, size);
  if (rehome_block_set_source_ready(&block_, size) == 0) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kAborted, "HANDOVER_ABORTED",
                    "the rescue's target left before it got the state");
}

void HandoverBlock::SetFenceProven() { rehome_block_set_fence_proven(&block_); }

PhaseTimes HandoverBlock::Phases(uint64_t not_before_ns) const {
  PhaseTimes times{};
  static_assert(std::tuple_size_v<PhaseTimes> == REHOME_PHASE_COUNT);
  rehome_block_read_phases(&block_, times.data());
  const uint64_t now = rehome_monotonic_ns();
  uint64_t previous = not_before_ns;
  for (uint64_t time : times) {
    if (time == 0) continue;
    if (time < previous || time > now) return PhaseTimes{};
    previous = time;
  }
  return times;
}

}  // namespace rehome
