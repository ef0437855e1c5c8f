// SPDX-License-Identifier: Apache-2.0
#include "daemon/handover_effects.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/process_identity.h"
#include "daemon/strategy.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

// How long a watcher sleeps on the verdict before it looks at cancels and dead processes, which
// have no futex to wake it. Changes of the verdict wake it at once.
constexpr uint64_t kVerdictSliceNs = 10'000'000;
// Beyond both deadlines of the block, for the VMMs' own threads to be scheduled and act first.
constexpr uint64_t kStuckMarginNs = 500'000'000;

uint64_t Nanoseconds(milliseconds duration) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(duration).count());
}

milliseconds ClaimTimeout(const EffectContext& context, const Migration& record) {
  return record.request.handover_timeout.count() > 0 ? record.request.handover_timeout
                                                     : context.dependencies.timeouts.claim;
}

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
  if (!stopped.ok()) return;
  escrow.block->SetFenceProven();
  record.fence.stop_observer = {"rehomed", IdentifySelf()};
  record.fence.tasks_stopped_ns = *stopped;
  record.fence.stopped_before_resume = true;
}

Outcome Running(Migration record) { return {Event::kVerdictRunning, {}, std::move(record)}; }

Failure AbortedByPeer(const Migration& record) {
  return {"HANDOVER_ABORTED",
          absl::StrCat("the handover was aborted before the target owned the guest (claim deadline "
                       "passed, or a VMM refused); VM ",
                       record.request.vm_id, " stays with the source")};
}

// Why an aborted handover was aborted: the target says so in an event if it refused.
Failure WhyAborted(EffectContext& context, const Migration& record) {
  if (context.escrow.target_link == nullptr) return AbortedByPeer(record);
  // The event was sent before the verdict moved, so it is here or on its way; no need to wait long.
  absl::StatusOr<LinkEvent> event = context.escrow.target_link->AwaitEvent(
      record.id, {LinkEvent::Kind::kTakeOverFailed}, milliseconds(50), nullptr);
  if (event.ok() && event->kind == LinkEvent::Kind::kTakeOverFailed) {
    return {"TAKE_OVER_FAILED", absl::StrCat("the target refused: ", event->text)};
  }
  if (HasExited(context.escrow.target_pidfd.borrow())) {
    return {"TARGET_DIED", "the target VMM exited during the handover; the source keeps the guest"};
  }
  return AbortedByPeer(record);
}

}  // namespace

Outcome HandOverEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  HandoverBlock& block = *escrow.block;
  escrow.handover_start_ns = rehome_monotonic_ns();
  absl::Status started = escrow.source_link->Start(record.id, context.dependencies.timeouts.agent);
  if (!started.ok() && block.AbortIfOpen()) {
    return FailedOutcome(Event::kVerdictAborted, Annotate(started, "START"), std::move(record));
  }
  const uint64_t limit = escrow.handover_start_ns + Nanoseconds(ClaimTimeout(context, record)) +
                         Nanoseconds(context.dependencies.timeouts.resolve) + kStuckMarginNs;
  bool to_fence = record.fence_policy == FencePolicy::kBeforeResume;
  for (uint64_t now = escrow.handover_start_ns; now < limit; now = rehome_monotonic_ns()) {
    const uint32_t verdict = block.verdict();
    if (verdict == REHOME_VERDICT_RUNNING) return Running(std::move(record));
    if (verdict == REHOME_VERDICT_ABORTED) {
      return {Event::kVerdictAborted, WhyAborted(context, record), std::move(record)};
    }
    const bool claimed = verdict == REHOME_VERDICT_CLAIMED || verdict == REHOME_VERDICT_COMMITTED;
    if (claimed && HasExited(escrow.target_pidfd.borrow())) {
      return {Event::kStuck,
              {"TARGET_DIED", "the target VMM exited after it had claimed the guest"},
              std::move(record)};
    }
    if (verdict == REHOME_VERDICT_COMMITTED && to_fence) {
      to_fence = false;
      FenceBeforeResume(context, record);
    }
    if (context.interrupt.raised() && block.AbortIfOpen()) {
      return {Event::kVerdictAborted,
              {"INTERRUPTED", "stopped while the verdict was still open"},
              std::move(record)};
    }
    // A source that died with its state complete has done its part; the target may go on.
    if (verdict == REHOME_VERDICT_OPEN && HasExited(escrow.source_pidfd.borrow()) &&
        !block.SourceReady() && block.AbortIfOpen()) {
      return {Event::kSourceLost,
              {"SOURCE_DIED", "the source VMM exited before the handover"},
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

namespace {

// A claimant that has outlived both deadlines. A kill that fails shows as a verdict that never
// settles. With MOVE a live target is spared once it may have the context: from then on it is the
// only place where the guest exists, however slow it is.
void KillClaimant(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  const bool moves = HasMove(record.strategy);
  if (moves && escrow.block->verdict() != REHOME_VERDICT_CLAIMED) return;
  if (!escrow.block->MayKill(REHOME_SIDE_TARGET)) return;
  if (moves) {
    // Condemned, it does not MOVE any more; whether it has, only the source's process can tell.
    absl::StatusOr<VmmLink::Probe> probe =
        escrow.source_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
    if (!probe.ok() || !probe->vm_alive) return;
  }
  if (escrow.block->verdict() == REHOME_VERDICT_RUNNING) return;
  (void)context.dependencies.fence->Kill(escrow.target_pidfd.borrow());
}

// With MOVE the source's VM can be dead while its process lives: it can only say so. Once nobody
// can run the guest any more, the end of that empty process makes the loss a proof.
void EndEmptySource(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  if (!HasMove(record.strategy) || escrow.source_link->closed()) return;
  absl::StatusOr<VmmLink::Probe> probe =
      escrow.source_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
  if (!probe.ok() || probe->vm_alive || probe->guest_running) return;
  // A kill that fails shows as a source that never exits.
  (void)context.dependencies.fence->Kill(escrow.source_pidfd.borrow());
}

enum class AbortStep { kContinue, kSettled };

// One look at the verdict; acts on what only the daemon can do.
AbortStep StepAbort(EffectContext& context, Migration& record, bool kill_claimant, Event& event) {
  Escrow& escrow = context.escrow;
  const bool source_dead = HasExited(escrow.source_pidfd.borrow());
  const bool target_dead = HasExited(escrow.target_pidfd.borrow());
  switch (static_cast<rehome_verdict>(escrow.block->verdict())) {
    case REHOME_VERDICT_RUNNING:
      event = Event::kVerdictRunning;
      return AbortStep::kSettled;
    case REHOME_VERDICT_ABORTED:
      // Final, and the target has lost: whatever becomes of the source, it is not needed any more.
      if (!target_dead) (void)context.dependencies.fence->Kill(escrow.target_pidfd.borrow());
      if (source_dead) {
        event = Event::kSourceLost;
        return AbortStep::kSettled;
      }
      EndEmptySource(context, record);  // MOVE failed half-way
      return AbortStep::kContinue;      // the source resumes and says so
    case REHOME_VERDICT_OPEN:
      escrow.block->AbortIfOpen();
      return AbortStep::kContinue;
    case REHOME_VERDICT_CLAIMED:
    case REHOME_VERDICT_COMMITTED:
      if (target_dead && source_dead) {
        event = Event::kSourceLost;
        return AbortStep::kSettled;
      }
      if (target_dead) EndEmptySource(context, record);
      // With the target dead the source probes and aborts; with a live one past its deadline we
      // make it dead.
      if (!target_dead && kill_claimant) KillClaimant(context, record);
      return AbortStep::kContinue;
  }
  // A value outside the enum: a VMM scribbled over the word. Nobody can claim it any more by
  // compare-and-swap from a legal value, so only the death of the target makes it safe to go on.
  if (!target_dead) (void)context.dependencies.fence->Kill(escrow.target_pidfd.borrow());
  record.failure = record.failure.reason.empty()
                       ? Failure{"VERDICT_CORRUPT", "the verdict word holds no legal value"}
                       : record.failure;
  return AbortStep::kContinue;
}

// Whether the source has said that the guest runs there again. A source that lost its connection
// reconnects, registers again and repeats what it had to say.
bool SourceResumed(EffectContext& context, const Migration& record, milliseconds wait) {
  Escrow& escrow = context.escrow;
  if (escrow.source_link->closed()) {
    absl::StatusOr<std::shared_ptr<VmmLink>> link =
        context.dependencies.vms->LinkOf(record.request.vm_id);
    if (link.ok() && !(*link)->closed() && (*link)->process() == record.source) {
      escrow.source_link = *std::move(link);
    } else {
      AwaitExit(escrow.source_pidfd.borrow(), wait);
      return false;
    }
  }
  absl::StatusOr<LinkEvent> event =
      escrow.source_link->AwaitEvent(record.id, {LinkEvent::Kind::kResumed}, wait, nullptr);
  if (event.ok() && event->kind == LinkEvent::Kind::kResumed) return true;
  // A source that START never reached has not paused and says nothing; it can be asked.
  absl::StatusOr<VmmLink::Probe> probe = escrow.source_link->ProbeVm(record.id, wait);
  return probe.ok() && probe->vm_alive && probe->guest_running;
}

}  // namespace

Outcome AbortEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  const uint64_t start = rehome_monotonic_ns();
  // A claimant gets the rest of its time: the block's deadlines are the VMMs' business first.
  const uint64_t kill_after = escrow.handover_start_ns +
                              Nanoseconds(ClaimTimeout(context, record)) +
                              Nanoseconds(timeouts.resolve) + kStuckMarginNs;
  const uint64_t limit = std::max(start, kill_after) + Nanoseconds(timeouts.resolve) +
                         Nanoseconds(timeouts.resume) + Nanoseconds(timeouts.exit);
  for (uint64_t now = start; now < limit; now = rehome_monotonic_ns()) {
    Event event = Event::kUnreachable;
    // That the guest was paused belongs on record, whoever has it in the end.
    record.phases = escrow.block->Phases(escrow.handover_start_ns);
    if (StepAbort(context, record, now >= kill_after, event) == AbortStep::kSettled) {
      if (event == Event::kVerdictRunning) return Running(std::move(record));
      return {event,
              {"GUEST_LOST", "the source VMM is dead and the guest was not handed over"},
              std::move(record)};
    }
    if (escrow.block->verdict() == REHOME_VERDICT_ABORTED &&
        SourceResumed(context, record, milliseconds(20))) {
      // So that the record tells whether the guest was paused for nothing.
      record.phases = escrow.block->Phases(escrow.handover_start_ns);
      return {Event::kSourceResumed, {}, std::move(record)};
    }
    if (escrow.block->verdict() != REHOME_VERDICT_ABORTED) {
      escrow.block->WaitVerdictIn(REHOME_VERDICTS_FINAL, std::min(now + kVerdictSliceNs, limit));
    }
  }
  return {Event::kUnreachable,
          {"OWNER_UNKNOWN", "neither VMM answered and neither is proven dead; nothing was started"},
          std::move(record)};
}

}  // namespace rehome
