// SPDX-License-Identifier: Apache-2.0
#include "daemon/recovery_effects.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/abort_effect.h"
#include "daemon/escrow_description.h"
#include "daemon/escrow_keeping.h"
#include "daemon/gone_link.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/rescue_rules.h"
#include "daemon/strategy.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

void TakeFromStore(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  std::vector<NamedFd> fds = context.dependencies.store->Take(record.id);
  if (fds.empty()) return;
  // A damaged one is as good as none: the agents are asked instead.
  absl::StatusOr<RestoredEscrow> restored =
      RestoreEscrow(std::move(fds), *context.dependencies.fd_kinds);
  if (restored.ok()) FillEscrow(*std::move(restored), record, escrow).IgnoreError();
}

// A living process's connection, or a link that says that there is none. Bounded by `rejoin`; a
// cancel is no reason to know less.
std::shared_ptr<VmmLink> FindLink(EffectContext& context, const ProcessIdentity& process,
                                  BorrowedFd pidfd, steady_clock::time_point deadline) {
  if (!HasExited(pidfd)) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
    absl::StatusOr<std::shared_ptr<VmmLink>> link =
        context.dependencies.await_link(process, std::max(left, milliseconds(0)), nullptr);
    if (link.ok()) return *std::move(link);
  }
  return NewGoneLink(process);
}

void FindLinks(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  const auto deadline = steady_clock::now() + context.dependencies.timeouts.rejoin;
  if (escrow.source_link == nullptr || escrow.source_link->closed()) {
    escrow.source_link = FindLink(context, record.source, escrow.source_pidfd.borrow(), deadline);
  }
  if (escrow.target_link == nullptr || escrow.target_link->closed()) {
    escrow.target_link = FindLink(context, record.target, escrow.target_pidfd.borrow(), deadline);
  }
}

// In a rescue the source has an earlier block than the target: that with the saved state. Without
// the target's own nobody knows whether it ran the guest.
void PutHandedIn(HandedIn handed_in, bool is_target, const Migration& record, Escrow& escrow) {
  absl::StatusOr<std::unique_ptr<HandoverBlock>> block =
      HandoverBlock::Adopt(std::move(handed_in.block), record.id);
  const bool needs_block = !escrow.KnowsVerdict(record) && block.ok();
  if (needs_block && is_target && record.rescue.attempts > 0) {
    if (HasMove(record.strategy)) {
      if (escrow.target.has_value())
        escrow.context.push_back({std::move(escrow.target->vm), std::move(escrow.target->memory)});
      escrow.context.push_back({});  // the source's
    }
    escrow.target.reset();
    escrow.saved = std::move(escrow.block);
    escrow.block_is_rescues = true;
  }
  if (needs_block) escrow.block = *std::move(block);
  std::optional<VmDescription>& described = is_target ? escrow.target : escrow.source;
  if (!described.has_value()) described = std::move(handed_in.vm);
}

// What the agents still have. The source's block is asked for first: it keeps it longest.
void TakeFromAgents(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  for (bool is_target : {false, true}) {
    VmmLink& link = is_target ? *escrow.target_link : *escrow.source_link;
    const bool described = is_target ? escrow.target.has_value() : escrow.source.has_value();
    if (link.closed() || (escrow.KnowsVerdict(record) && described)) continue;
    absl::StatusOr<HandedIn> handed_in =
        link.HandIn(record.id, context.dependencies.timeouts.agent);
    if (handed_in.ok()) PutHandedIn(*std::move(handed_in), is_target, record, escrow);
  }
}

bool TargetRunsGuest(EffectContext& context, const Migration& record) {
  absl::StatusOr<VmmLink::Probe> probe =
      context.escrow.target_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
  return probe.ok() && probe->vm_alive && probe->guest_running;
}

Failure CauseOf(Event event, const Migration& record) {
  if (event == Event::kSourceLost) {
    return {"GUEST_LOST", "both VMMs are dead and nothing is left to go on from"};
  }
  if (event == Event::kUnreachable) {
    return {"OWNER_UNKNOWN",
            absl::StrCat("nobody has the handover block of ", record.id,
                         ", and neither VMM says that it runs the guest; nothing was started")};
  }
  return {};
}

}  // namespace

absl::Status Rebuild(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  absl::StatusOr<UniqueFd> source = FindProcess(record.source);
  if (!source.ok()) return source.status();
  absl::StatusOr<UniqueFd> target = FindProcess(record.target);
  if (!target.ok()) return target.status();
  escrow.source_pidfd = *std::move(source);
  escrow.target_pidfd = *std::move(target);
  escrow.handover_start_ns = record.armed_ns;
  TakeFromStore(context, record);
  FindLinks(context, record);
  TakeFromAgents(context, record);
  // The step that says so to the directory may have been the earlier daemon's.
  if (record.owner == GuestOwner::kTarget && !escrow.target_link->closed()) {
    context.dependencies.vms->HandOver(record.request.vm_id, escrow.target_link);
  }
  return absl::OkStatus();
}

namespace {

// Whether the guest has been paused, whatever the record says.
bool HasStarted(const Findings& found) {
  return found.source == SourceSight::kPaused || found.source == SourceSight::kVmDead ||
         found.verdict == REHOME_VERDICT_CLAIMED || found.verdict == REHOME_VERDICT_COMMITTED;
}

}  // namespace

Event EventOf(const Findings& found) {
  const bool source_dead = found.source == SourceSight::kDead;
  // What is seen counts for more than a record, which can be older than it (journal.md: a torn
  // tail).
  if (found.target_runs_guest || found.verdict == REHOME_VERDICT_RUNNING) {
    return Event::kVerdictRunning;
  }
  if (found.before_start && !HasStarted(found)) {
    return source_dead ? Event::kSourceLost : Event::kSourceResumed;
  }
  if (found.verdict.has_value()) {
    const bool resumed =
        *found.verdict == REHOME_VERDICT_ABORTED && found.source == SourceSight::kRunsGuest;
    return resumed ? Event::kSourceResumed : Event::kStuck;
  }
  // A source drops its block once it runs the guest again.
  if (found.source == SourceSight::kRunsGuest) return Event::kSourceResumed;
  return source_dead && found.target_dead ? Event::kSourceLost : Event::kUnreachable;
}

Outcome RecoverEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  // Asked again, it looks again: what was silent may have come round.
  FindLinks(context, record);
  if (!escrow.KnowsVerdict(record)) TakeFromAgents(context, record);
  Findings found = {.before_start = WasBeforeStart(record)};
  found.source = LookAtSource(context, record, context.dependencies.timeouts.agent);
  // It may be dead by the time that ABORTING asks, and then its VM would pass for one to go on
  // from.
  if (found.source == SourceSight::kVmDead) NoteKernelVmDead(record);
  found.target_runs_guest = TargetRunsGuest(context, record);
  found.target_dead = HasExited(escrow.target_pidfd.borrow());
  if (escrow.KnowsVerdict(record)) {
    found.verdict = escrow.block->verdict();
    record.phases = escrow.Phases(record.armed_ns);
  }
  const Event event = EventOf(found);
  return {event, CauseOf(event, record), std::move(record)};
}

}  // namespace rehome
