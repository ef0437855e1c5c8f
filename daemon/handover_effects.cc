// SPDX-License-Identifier: Apache-2.0
#include "daemon/handover_effects.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/strategy.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

// FENCE_BEFORE_RESUME: the target has committed and waits. The intent to kill the source is in the
// journal since this migration entered HANDING_OVER with that policy. A source whose target is dead
// or condemned is spared: it will take the guest back.
void FenceBeforeResume(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  Fence& fence = *context.dependencies.fence;
  // Condemning a source that we may not signal would leave the guest with nobody.
  if (!SendSignal(escrow.source_pidfd.borrow(), 0).ok()) return;
  if (HasExited(escrow.target_pidfd.borrow()) || !escrow.block->MayKill(REHOME_SIDE_SOURCE)) return;
  // Read again: until we had the right to kill it, the source may have taken the guest back.
  if (escrow.block->verdict() == REHOME_VERDICT_ABORTED) return;
  if (HasExited(escrow.target_pidfd.borrow())) return;
  const uint64_t now = rehome_monotonic_ns();
  if (!fence.Kill(escrow.source_pidfd.borrow()).ok()) return;
  record.fence.kill_sent_ns = now;
  // Without this proof the fence word stays unset; the target then proves the source's exit itself.
  absl::StatusOr<uint64_t> stopped = fence.AwaitTasksStopped(
      escrow.source_pidfd.borrow(), record.source, context.dependencies.timeouts.resolve);
  if (stopped.ok()) AnnounceStopped(context, record, *stopped);
  // Since the kill the guest is the target's or nobody's. Said now, because it waits for the above.
  if (!escrow.target_link->closed()) {
    context.dependencies.vms->HandOver(record.request.vm_id, escrow.target_link);
  }
}

Outcome Running(Migration record) { return {Event::kVerdictRunning, {}, std::move(record)}; }

Failure AbortedByPeer(const Migration& record) {
  return {"HANDOVER_ABORTED",
          absl::StrCat("the handover was aborted before the target owned the guest (claim deadline "
                       "passed, or a VMM refused); VM ",
                       record.request.vm_id, " stays with the source")};
}

// A target that refused says so in an event.
std::optional<Failure> Refusal(EffectContext& context, const Migration& record) {
  if (context.escrow.target_link == nullptr) return std::nullopt;
  // It was queued before the verdict moved or the target left, so it is here or on its way; a
  // target that has nothing to say leaves, which ends the wait.
  absl::StatusOr<LinkEvent> event = context.escrow.target_link->AwaitEvent(
      record.id, {LinkEvent::Kind::kTakeOverFailed}, context.dependencies.timeouts.agent, nullptr);
  if (!event.ok() || event->kind != LinkEvent::Kind::kTakeOverFailed) return std::nullopt;
  return Failure{"TAKE_OVER_FAILED", absl::StrCat("the target refused: ", event->text)};
}

// With a dead source a target that refuses leaves the verdict as it is.
Failure WhyLeft(EffectContext& context, const Migration& record) {
  return Refusal(context, record)
      .value_or(Failure{"TARGET_DIED", "the target VMM exited after it had claimed the guest"});
}

// A source that gave up before its guest stood still: not that the target was late.
std::optional<Failure> DeviceBusy(EffectContext& context, const Migration& record) {
  const std::optional<std::string> why =
      WhyResumed(context, record, context.dependencies.timeouts.resume);
  if (!why.has_value() || !absl::StartsWith(*why, REHOME_TEXT_DEVICE_BUSY)) return std::nullopt;
  return Failure{std::string(reason::kDeviceBusy),
                 absl::StrCat("a device of VM ", record.request.vm_id, " is busy: ",
                              why->substr(std::string_view(REHOME_TEXT_DEVICE_BUSY).size()))};
}

// The state never became complete, so the source gave up its pause, perhaps because there was no
// guest left to save. A VMM says that from another thread than RESUMED.
Failure WhyAborted(EffectContext& context, const Migration& record) {
  if (!context.escrow.block->SourceReady()) {
    const milliseconds wait = context.dependencies.timeouts.release;
    if (std::optional<Failure> ended = GuestEnded(context, record, wait)) return *ended;
    if (std::optional<Failure> busy = DeviceBusy(context, record)) return *busy;
  }
  if (std::optional<Failure> refusal = Refusal(context, record)) return *refusal;
  if (HasExited(context.escrow.target_pidfd.borrow())) {
    return {"TARGET_DIED", "the target VMM exited during the handover; the source keeps the guest"};
  }
  return AbortedByPeer(record);
}

// The source has done its part and is dead: the saved state is the guest. Made ABORTED it would be
// lost, because nobody could tell that the source had not gone on from it before it died.
bool OnlyStateIsLeft(const Escrow& escrow) {
  return HasExited(escrow.source_pidfd.borrow()) && escrow.block->SourceReady();
}

}  // namespace

Outcome HandOverEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  HandoverBlock& block = *escrow.block;
  context.dependencies.vms->KeepListed(record.request.vm_id);
  escrow.handover_start_ns = rehome_monotonic_ns();
  absl::Status started = escrow.source_link->Start(record.id, context.dependencies.timeouts.agent);
  if (!started.ok() && !OnlyStateIsLeft(escrow) && block.AbortIfOpen()) {
    return FailedOutcome(Event::kVerdictAborted, Annotate(started, "START"), std::move(record));
  }
  const uint64_t limit = OverdueNs(context, record);
  bool to_fence = record.fence_policy == FencePolicy::kBeforeResume;
  for (uint64_t now = escrow.handover_start_ns; now < limit; now = rehome_monotonic_ns()) {
    const uint32_t verdict = block.verdict();
    if (verdict == REHOME_VERDICT_RUNNING) return Running(std::move(record));
    if (verdict == REHOME_VERDICT_ABORTED) {
      return {Event::kVerdictAborted, WhyAborted(context, record), std::move(record)};
    }
    const bool claimed = verdict == REHOME_VERDICT_CLAIMED || verdict == REHOME_VERDICT_COMMITTED;
    if (claimed && HasExited(escrow.target_pidfd.borrow())) {
      return {Event::kStuck, WhyLeft(context, record), std::move(record)};
    }
    if (verdict == REHOME_VERDICT_COMMITTED && to_fence) {
      to_fence = false;
      FenceBeforeResume(context, record);
    }
    if (context.interrupt.raised() && !OnlyStateIsLeft(escrow) && block.AbortIfOpen()) {
      return {Event::kVerdictAborted,
              {"INTERRUPTED", "stopped while the verdict was still open"},
              std::move(record)};
    }
    // A source that died with its state complete has done its part; the target may go on.
    if (verdict == REHOME_VERDICT_OPEN && HasExited(escrow.source_pidfd.borrow()) &&
        !block.SourceReady() && block.AbortIfOpen()) {
      const Failure died = {"SOURCE_DIED", "the source VMM exited before the handover"};
      return {Event::kSourceLost, GuestEnded(context, record, milliseconds(0)).value_or(died),
              std::move(record)};
    }
    const uint32_t awaited =
        REHOME_VERDICTS_FINAL | (to_fence ? REHOME_VERDICT_BIT(REHOME_VERDICT_COMMITTED) : 0);
    block.WaitVerdictIn(awaited, std::min(now + kVerdictSliceNs, limit));
  }
  return {Event::kStuck,
          {"HANDOVER_STUCK", "the verdict did not settle within both deadlines"},
          std::move(record)};
}

}  // namespace rehome
