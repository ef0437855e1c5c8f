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
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

void TakeFromStore(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  EscrowStore& store = *context.dependencies.store;
  std::vector<NamedFd> fds = store.Take(record.id);
  escrow.store_was_empty = fds.empty() && store.all_came_back();
  escrow.store_was_unread = !store.all_came_back();
  if (fds.empty()) return;
  absl::StatusOr<RestoredEscrow> restored =
      RestoreEscrow(std::move(fds), *context.dependencies.fd_kinds);
  const absl::Status filled =
      restored.ok() ? FillEscrow(*std::move(restored), record, escrow) : restored.status();
  // A damaged one is as good as none: the agents are asked instead. One that we could not look at
  // is still with the manager, for the next daemon.
  if (!filled.ok() && ReasonOf(filled) != reason::kEscrowDamaged) escrow.store_was_unread = true;
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

// A failure to answer is not an answer, and an older agent may say so of any failure of its VMM.
HandInAnswer AnswerOf(const VmmLink& link, const absl::Status& status) {
  if (status.ok()) return HandInAnswer::kHandedIn;
  const bool exact = (link.hello().features & REHOME_FEATURE_EXACT) != 0;
  const bool nothing = ReasonOf(status) == reason::kAgentRefusedWrongMigration;
  return exact && nothing ? HandInAnswer::kNothing : HandInAnswer::kNone;
}

// What the agents still have, and what the source answered. Its block is asked for first: it keeps
// it longest.
HandInAnswer TakeFromAgents(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  HandInAnswer of_source = HandInAnswer::kNone;
  for (bool is_target : {false, true}) {
    VmmLink& link = is_target ? *escrow.target_link : *escrow.source_link;
    const bool described = is_target ? escrow.target.has_value() : escrow.source.has_value();
    if (link.closed() || (escrow.KnowsVerdict(record) && described)) continue;
    absl::StatusOr<HandedIn> handed_in =
        link.HandIn(record.id, context.dependencies.timeouts.agent);
    if (!is_target) of_source = AnswerOf(link, handed_in.status());
    if (handed_in.ok()) PutHandedIn(*std::move(handed_in), is_target, record, escrow);
  }
  return of_source;
}

bool TargetRunsGuest(EffectContext& context, const Migration& record) {
  absl::StatusOr<VmmLink::Probe> probe =
      context.escrow.target_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
  return probe.ok() && probe->vm_alive && probe->guest_running;
}

Failure CauseOf(Event event, const Findings& found, const Migration& record) {
  if (event == Event::kSourceLost && found.source != SourceSight::kDead) {
    return {"GUEST_LOST",
            "the target is dead, the source's VM is dead since its context was moved, and nothing "
            "is left to go on from"};
  }
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

// Whether of the target neither VM nor block is left, here, with the service manager or with the
// source: asked and answered. It is dead itself, and the daemon that had duplicates has ended.
bool NothingIsLeft(const Escrow& escrow, HandInAnswer of_source) {
  const bool has_vm = escrow.source.has_value() || escrow.target.has_value() ||
                      std::any_of(escrow.context.begin(), escrow.context.end(),
                                  [](const ContextVm& vm) { return vm.vm.valid(); });
  return escrow.store_was_empty && of_source == HandInAnswer::kNothing && escrow.block == nullptr &&
         escrow.saved == nullptr && !has_vm;
}

// Of a journal that lost its end: the target on record may have had a successor.
bool MayMissRecords(const EffectContext& context) {
  const auto& may_miss = context.dependencies.may_miss_records;
  return may_miss && may_miss();
}

// For the step that ends such a source, which the journal announces.
void NoteEmptied(Migration& record) {
  record.fence.observer = {"rehomed", IdentifySelf()};
  record.fence.source = record.source;
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
         found.source == SourceSight::kVmDeadUnproven || found.verdict == REHOME_VERDICT_CLAIMED ||
         found.verdict == REHOME_VERDICT_COMMITTED;
}

}  // namespace

bool IsEmptiedForGood(const Findings& found) {
  return !found.before_start && !found.verdict.has_value() && !found.target_runs_guest &&
         found.moves && found.target_on_record && found.target_dead && found.nothing_is_left &&
         found.source == SourceSight::kVmDead;
}

Event EventOf(const Findings& found) {
  const bool source_dead = found.source == SourceSight::kDead;
  // What is seen counts for more than a record, which can be older than it (journal.md: a torn
  // tail).
  if (found.target_runs_guest || found.verdict == REHOME_VERDICT_RUNNING) {
    return Event::kVerdictRunning;
  }
  const Event both_dead = found.in_doubt ? Event::kUnreachable : Event::kSourceLost;
  if (found.before_start && !HasStarted(found)) {
    return source_dead ? both_dead : Event::kSourceResumed;
  }
  if (found.verdict.has_value()) {
    const bool resumed =
        *found.verdict == REHOME_VERDICT_ABORTED && found.source == SourceSight::kRunsGuest;
    return resumed ? Event::kSourceResumed : Event::kStuck;
  }
  // A source drops its block once it runs the guest again.
  if (found.source == SourceSight::kRunsGuest) return Event::kSourceResumed;
  if (source_dead && found.target_dead) return both_dead;
  return IsEmptiedForGood(found) ? Event::kSourceLost : Event::kUnreachable;
}

Outcome RecoverEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  record.fence.source = {};  // of an earlier look, which was not acted on
  // Asked again, it looks again: what was silent may have come round.
  FindLinks(context, record);
  HandInAnswer of_source = HandInAnswer::kNone;
  if (!escrow.KnowsVerdict(record)) of_source = TakeFromAgents(context, record);
  Findings found = {.before_start = WasBeforeStart(record)};
  found.source = LookAtSource(context, record, context.dependencies.timeouts.agent);
  // It may be dead by the time that ABORTING asks, and then its VM would pass for one to go on
  // from.
  if (found.source == SourceSight::kVmDead) NoteVmDead(record);
  found.target_runs_guest = TargetRunsGuest(context, record);
  found.target_dead = HasExited(escrow.target_pidfd.borrow());
  if (escrow.KnowsVerdict(record)) {
    found.verdict = escrow.block->verdict();
    record.phases = escrow.Phases(record.armed_ns);
  } else {
    found.moves = HasMove(record.strategy);
    found.target_on_record = record.target.pid != 0 && !MayMissRecords(context);
    found.nothing_is_left = NothingIsLeft(escrow, of_source);
    found.in_doubt = MayMissRecords(context) || escrow.store_was_unread;
  }
  const Event event = EventOf(found);
  const Failure cause = CauseOf(event, found, record);
  if (IsEmptiedForGood(found)) NoteEmptied(record);
  return {event, cause, std::move(record)};
}

}  // namespace rehome
