// SPDX-License-Identifier: Apache-2.0
//
// The daemon's view of a handover block: creates it, watches the verdict, and may abort an open
// one. vmm/agent/handover_block.h is the contract of the words in it; everything read here is
// untrusted.
#ifndef REHOME_DAEMON_HANDOVER_H_
#define REHOME_DAEMON_HANDOVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "kvmglue/fd.h"
#include "vmm/agent/handover_block.h"

namespace rehome {

// Thread-safe. Virtual is what a test needs to be there between two looks of one decision.
class HandoverBlock {
 public:
  struct Params {
    std::string migration_id;
    uint64_t state_capacity = 0;  // bytes, at most REHOME_MAX_STATE
    std::chrono::nanoseconds claim_timeout{0};
    std::chrono::nanoseconds resolve_timeout{0};
    Strategy strategy = Strategy::kMap;
    FencePolicy fence_policy = FencePolicy::kBeforeResume;
  };
  // RESOURCE_EXHAUSTED / NO_HANDOVER_BLOCK if the memfd cannot be had.
  static absl::StatusOr<std::unique_ptr<HandoverBlock>> Create(const Params& params);
  // One that another daemon created, from its fd. DATA_LOSS / ESCROW_DAMAGED if it is none, or not
  // that of `migration_id`.
  static absl::StatusOr<std::unique_ptr<HandoverBlock>> Adopt(UniqueFd fd,
                                                              const std::string& migration_id);
  virtual ~HandoverBlock();

  HandoverBlock(const HandoverBlock&) = delete;
  HandoverBlock& operator=(const HandoverBlock&) = delete;

  BorrowedFd fd() const { return fd_.borrow(); }

  // A value outside the enum (a hostile VMM wrote it) is reported as it stands.
  uint32_t verdict() const { return rehome_block_verdict(&block_); }
  // Blocks until the verdict is one of `verdicts` (REHOME_VERDICT_BIT of each) or the deadline
  // (CLOCK_MONOTONIC, ns) passes. The target's other steps wake nobody.
  void WaitVerdictIn(uint32_t verdicts, uint64_t deadline_ns) const;
  // OPEN -> ABORTED. False if the verdict was no longer OPEN.
  bool AbortIfOpen();
  // `from` -> ABORTED, where the table has that edge. False: the verdict was not `from`.
  bool AbortFrom(uint32_t from);
  // Whether the source has said that its state is complete; also of a block that is ABORTED.
  bool SourceReady() const;
  // The daemon in the source's place (docs/recovery.md, "Rescue"): copies the state of `saved`,
  // which it does not look into, and announces it. FAILED_PRECONDITION / NO_SAVED_STATE if there is
  // none or it does not fit; ABORTED / HANDOVER_ABORTED if this block's verdict became ABORTED
  // first.
  absl::Status AnnounceStateOf(const HandoverBlock& saved);
  // The fence word as it stands; may be no value of the enum.
  virtual uint32_t fence() const { return rehome_block_fence_state(&block_); }
  void SetFenceProven();
  // The right to kill that side while the verdict is CLAIMED or COMMITTED; false: the other side
  // has been condemned, or has run. The verdict must be read again before the kill.
  virtual bool MayKill(rehome_side side);
  // As the VMMs stamped them, or all zero if they are not in ascending order or lie outside
  // [not_before, now]: a time that cannot be true is not shown.
  PhaseTimes Phases(uint64_t not_before_ns) const;

 protected:
  // Of nothing until Map() has returned 0.
  explicit HandoverBlock(UniqueFd fd) : fd_(std::move(fd)) {}
  // 0, or a negative errno of rehome_block_map().
  int Map() { return rehome_block_map(fd_.borrow().raw(), &block_); }

 private:
  UniqueFd fd_;
  rehome_block block_{};
};

}  // namespace rehome

#endif  // REHOME_DAEMON_HANDOVER_H_
