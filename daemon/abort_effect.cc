// SPDX-License-Identifier: Apache-2.0
#include "daemon/abort_effect.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "daemon/rescue_rules.h"
#include "daemon/strategy.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

Observation Look(EffectContext& context, Migration& record, bool overdue) {
  Escrow& escrow = context.escrow;
  // The block last: what the dead wrote in it is final then.
  const SourceSight source = LookAtSource(context, record, kLookPause);
  if (source == SourceSight::kVmDead) NoteKernelVmDead(record);
  const bool target_dead = HasExited(escrow.target_pidfd.borrow());
  return {
      .verdict = escrow.block->verdict(),
      .state_saved = escrow.StateBlock().SourceReady(),
      .fence = escrow.block->fence(),
      .moves = HasMove(record.strategy),
      .policy = record.fence_policy,
      .source = source,
      .target_dead = target_dead,
      .overdue = overdue,
      .can_rescue = escrow.HoldsGuest(HasMove(record.strategy), record.fence.kernel_vm_dead) &&
                    escrow.KnowsVerdict(record),
      .source_was_out = WasOutBefore(record),
  };
}

void CondemnAndKillTarget(EffectContext& context) {
  Escrow& escrow = context.escrow;
  if (!escrow.block->MayKill(REHOME_SIDE_TARGET)) return;
  if (escrow.block->verdict() == REHOME_VERDICT_RUNNING) return;
  // A kill that fails shows as a target that never dies.
  (void)KillProcess(context, escrow.target_pidfd);
}

// The source is condemned already, for a target that hangs: nobody takes the guest back in between.
void FinishFence(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  if (escrow.block->fence() != REHOME_FENCE_STATE_SOURCE_CONDEMNED) return;
  if (escrow.block->verdict() == REHOME_VERDICT_ABORTED) return;
  const uint64_t now = rehome_monotonic_ns();
  if (!KillProcess(context, escrow.source_pidfd).ok()) return;
  if (record.fence.kill_sent_ns == 0) record.fence.kill_sent_ns = now;
  absl::StatusOr<uint64_t> stopped = context.dependencies.fence->AwaitTasksStopped(
      escrow.source_pidfd.borrow(), record.source, context.dependencies.timeouts.resolve);
  if (stopped.ok()) AnnounceStopped(context, record, *stopped);
}

// Does what is to be done; what settles the matter is the caller's.
void Act(EffectContext& context, Action action, Migration& record) {
  Escrow& escrow = context.escrow;
  switch (action) {
    case Action::kRunning:
    case Action::kResumed:
    case Action::kLost:
    case Action::kStranded:
      return;
    case Action::kWait:
      escrow.block->WaitVerdictIn(REHOME_VERDICTS_FINAL, rehome_monotonic_ns() + kVerdictSliceNs);
      return;
    case Action::kAbortOpen:
      escrow.block->AbortFrom(REHOME_VERDICT_OPEN);
      return;
    case Action::kAbortCommitted:
      escrow.block->AbortFrom(REHOME_VERDICT_COMMITTED);
      return;
    // What dies is waited for a little: the next look would find it dying still.
    case Action::kKillTarget:
      (void)KillProcess(context, escrow.target_pidfd);
      (void)AwaitExit(escrow.target_pidfd.borrow(), kLookPause);
      return;
    case Action::kCondemnTarget:
      CondemnAndKillTarget(context);
      (void)AwaitExit(escrow.target_pidfd.borrow(), kLookPause);
      return;
    case Action::kFinishFence:
      FinishFence(context, record);
      return;
    case Action::kAnnounceProof:
      AnnounceStopped(context, record, rehome_monotonic_ns());
      return;
    case Action::kEndEmptySource:
      (void)KillProcess(context, escrow.source_pidfd);
      (void)AwaitExit(escrow.source_pidfd.borrow(), kLookPause);
      return;
  }
}

Failure WhyStranded(const Observation& seen) {
  if (seen.target_dead) {
    return {"TARGET_DIED", "the target VMM died after the source had paused and before it ran"};
  }
  return {"TARGET_HANGS", "the target VMM outlived both deadlines and did not run the guest"};
}

// The guest was the source's to the end: it runs there, or it is gone with it. A guest that ended
// by itself in the pause is with nobody, though its VMM is there for a moment and has "resumed" it.
Outcome WithSource(EffectContext& context, Migration record, bool resumed) {
  if (std::optional<Failure> ended = GuestEnded(context, record, milliseconds(0))) {
    return {Event::kSourceLost, *std::move(ended), std::move(record)};
  }
  if (resumed) return {Event::kSourceResumed, {}, std::move(record)};
  return {Event::kSourceLost,
          {"GUEST_LOST", "the source VMM is dead and the guest was not handed over"},
          std::move(record)};
}

}  // namespace

SourceSight LookAtSource(EffectContext& context, const Migration& record, milliseconds wait) {
  Escrow& escrow = context.escrow;
  if (HasExited(escrow.source_pidfd.borrow())) return SourceSight::kDead;
  if (escrow.source_link->closed()) {
    absl::StatusOr<std::shared_ptr<VmmLink>> link =
        context.dependencies.await_link(record.source, wait, nullptr);
    if (!link.ok()) {
      return HasExited(escrow.source_pidfd.borrow()) ? SourceSight::kDead : SourceSight::kSilent;
    }
    escrow.source_link = *std::move(link);
  }
  if (WhyResumed(context, record, wait).has_value()) return SourceSight::kRunsGuest;
  // What it said may have been to a daemon that is gone; and a source that START never reached has
  // not paused and says nothing. It can be asked.
  absl::StatusOr<VmmLink::Probe> probe = escrow.source_link->ProbeVm(record.id, wait);
  if (!probe.ok()) return SourceSight::kSilent;
  if (!probe->vm_alive) return SourceSight::kVmDead;
  return probe->guest_running ? SourceSight::kRunsGuest : SourceSight::kPaused;
}

Outcome AbortEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  const uint64_t start = rehome_monotonic_ns();
  // A claimant gets the rest of its time: the block's deadlines are the VMMs' business first.
  const uint64_t overdue = OverdueNs(context, record);
  const uint64_t limit = std::max(start, overdue) + Nanoseconds(timeouts.resolve) +
                         Nanoseconds(timeouts.resume) + Nanoseconds(ExitTimeout(context));
  for (uint64_t now = start; now < limit; now = rehome_monotonic_ns()) {
    const Observation seen = Look(context, record, now >= overdue);
    const Action action = Settle(seen);
    Act(context, action, record);
    // That the guest was paused belongs on record, whoever has it in the end.
    record.phases = escrow.Phases(escrow.handover_start_ns);
    if (action == Action::kRunning) return {Event::kVerdictRunning, {}, std::move(record)};
    if (action == Action::kResumed || action == Action::kLost) {
      return WithSource(context, std::move(record), action == Action::kResumed);
    }
    if (action == Action::kStranded) {
      return {Event::kStranded, WhyStranded(seen), std::move(record)};
    }
  }
  return {Event::kUnreachable,
          {"OWNER_UNKNOWN", "neither VMM answered and neither is proven dead; nothing was started"},
          std::move(record)};
}

}  // namespace rehome
