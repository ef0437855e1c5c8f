// SPDX-License-Identifier: Apache-2.0
#include "daemon/completion_effects.h"

#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/escrow_keeping.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/rescue_rules.h"
#include "daemon/strategy.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Of the search for holders, and the pause between two.
constexpr int kSearchAttempts = 3;
constexpr milliseconds kSearchPause{50};

std::string KernelRelease() {
  utsname name{};
  return uname(&name) == 0 ? name.release : "";
}

// A source that is out of touch for a moment connects again, as an agent does for ever.
void MeetSourceAgain(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  if (!escrow.source_link->closed() || HasExited(escrow.source_pidfd.borrow())) return;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  absl::StatusOr<std::shared_ptr<VmmLink>> link =
      context.dependencies.await_link(record.source, timeouts.release, nullptr);
  if (link.ok()) escrow.source_link = *std::move(link);
}

// The kernel's word that MOVE killed the source VM: EIO in the process that created it. Asked while
// that process lives; silence proves nothing, nor does an agent that says so of any failure. False:
// that VM is alive, so nobody has moved it, whatever the verdict says.
bool WasMoved(EffectContext& context, Migration& record) {
  if (!HasMove(record.strategy) || record.fence.kill_sent_ns != 0) return true;
  if (record.fence.kernel_vm_dead) return true;  // it does not come to life again
  MeetSourceAgain(context, record);
  absl::StatusOr<VmmLink::Probe> probe =
      context.escrow.source_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
  if (!probe.ok()) return true;
  if (probe->vm_alive) return false;
  if (probe->vm_dead) NoteVmDead(record);
  return true;
}

absl::Status NotMoved(const Migration& record) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kVmNotMoved,
                    absl::StrCat("the target has declared that it runs VM ", record.request.vm_id,
                                 ", but the kernel has not moved it: the source's VM is alive"));
}

// Polite first, then certain. The proof is the exit, however it came about.
absl::Status EndSource(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  Fence& fence = *context.dependencies.fence;
  const milliseconds release = context.dependencies.timeouts.release;
  if (!escrow.source_pidfd.valid()) {
    // Proven gone when this daemon took over (FindProcess of recovery_effects.cc).
    record.fence.process_exited = true;
    record.fence.exited_ns = rehome_monotonic_ns();
    return absl::OkStatus();
  }
  // Gone already by another's hand: there is nobody to ask or to kill.
  bool leaving = record.fence.kill_sent_ns != 0 || HasExited(escrow.source_pidfd.borrow());
  if (!leaving && escrow.source_link->Release(record.id, release).ok()) {
    leaving = AwaitExit(escrow.source_pidfd.borrow(), release);
  }
  absl::Status killed;
  if (!leaving) {
    const uint64_t now = rehome_monotonic_ns();
    killed = fence.Kill(escrow.source_pidfd.borrow());
    if (killed.ok()) record.fence.kill_sent_ns = now;
  }
  // Also if we may not kill it: the target may have done so, and it is dying.
  absl::StatusOr<uint64_t> exited =
      fence.AwaitExit(escrow.source_pidfd.borrow(), ExitTimeout(context));
  if (!exited.ok()) return killed.ok() ? exited.status() : killed;
  record.fence.process_exited = true;
  record.fence.exited_ns = *exited;
  return absl::OkStatus();
}

// A look that failed is made again: with the guest moved, nothing but this stands between the
// migration and its success, and descriptors or memory may be short for a moment only.
absl::StatusOr<HolderSearch> SearchPatiently(EffectContext& context, const Migration& record) {
  Fence& fence = *context.dependencies.fence;
  absl::StatusOr<HolderSearch> search = fence.FindHolders(record.memory_inodes, {record.target});
  for (int attempt = 1; attempt < kSearchAttempts && !search.ok(); ++attempt) {
    std::this_thread::sleep_for(kSearchPause);
    search = fence.FindHolders(record.memory_inodes, {record.target});
  }
  return search;
}

absl::Status CheckHolders(EffectContext& context, Migration& record) {
  absl::StatusOr<HolderSearch> search = SearchPatiently(context, record);
  if (!search.ok()) return search.status();
  record.fence.search = *std::move(search);
  const std::vector<InodeHolder> foreign = record.fence.search.Foreign();
  if (!foreign.empty()) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "MEMORY_STILL_HELD",
                      absl::StrCat("process ", foreign.front().pid, " (", foreign.front().command,
                                   ") still holds the guest's memory by ", foreign.front().how));
  }
  for (const InodeSearch& found : record.fence.search.memory) {
    if (found.HeldByTarget()) continue;
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "MEMORY_NOT_FOUND",
                      absl::StrCat("the search did not find inode ", found.inode.inode,
                                   " with the target, pid ", record.target.pid));
  }
  return absl::OkStatus();
}

// Whether the target is dead. A search that missed it may have looked at a process that had already
// given up its memory but not yet exited, so that one waits: for as long as dying may take, because
// a process has no mappings from the beginning of its teardown and exits at the end of it. A
// target that lives and has dropped its memory is waited for in vain, ExitTimeout() at most. That
// delays nobody but the record: the source is out, no guest is paused, and what the target can
// still run is not the guest. To call it dead, or alive, without its exit would be a guess.
bool TargetIsLost(EffectContext& context, const Migration& record) {
  const BorrowedFd target = context.escrow.target_pidfd.borrow();
  for (const InodeSearch& found : record.fence.search.memory) {
    if (!found.HeldByTarget()) return AwaitExit(target, ExitTimeout(context));
  }
  return HasExited(target);
}

// Under BEFORE_RESUME nobody runs the guest before the fence word is PROVEN. If it was not this
// daemon that saw the source stopped, it was the target, or a daemon before this one that ended
// before it could say so. A word that agents can write: it completes no proof.
void NoteProofOfTarget(const Escrow& escrow, Migration& record) {
  FenceProof& proof = record.fence;
  if (record.fence_policy != FencePolicy::kBeforeResume || proof.stopped_before_resume) return;
  if (escrow.block == nullptr || escrow.block->verdict() != REHOME_VERDICT_RUNNING) return;
  if (escrow.block->fence() != REHOME_FENCE_STATE_PROVEN) return;
  proof.stopped_before_resume = true;
  proof.stop_observer = {record.restarts > 0 ? "unknown" : "target", record.target};
  proof.tasks_stopped_ns = escrow.Phases(escrow.handover_start_ns)[REHOME_PHASE_FENCED];
}

// A target answers so only once its first KVM_RUN has come back.
bool SaysItRuns(EffectContext& context, const Migration& record) {
  absl::StatusOr<VmmLink::Probe> probe =
      context.escrow.target_link->ProbeVm(record.id, context.dependencies.timeouts.agent);
  return probe.ok() && probe->vm_alive && probe->guest_running;
}

// What the target says of its first run, if anything.
struct FirstRunWord {
  enum class Kind { kNone, kRan, kFailed };
  Kind kind = Kind::kNone;
  std::string text = {};
};

// A target without a connection makes a new one, as an agent does for ever; one that is dying does
// not. False: there is none in that time.
bool MeetTargetAgain(EffectContext& context, const Migration& record, milliseconds timeout) {
  Escrow& escrow = context.escrow;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  if (AwaitExit(escrow.target_pidfd.borrow(), std::min(timeouts.release, timeout))) return false;
  absl::StatusOr<std::shared_ptr<VmmLink>> link =
      context.dependencies.await_link(record.target, std::min(timeouts.rejoin, timeout), nullptr);
  if (!link.ok()) return false;
  escrow.target_link = *std::move(link);
  context.dependencies.vms->HandOver(record.request.vm_id, escrow.target_link);
  return true;
}

// A connection that breaks here says nothing about the guest, and the event can have gone with it:
// who comes back is asked.
FirstRunWord AwaitFirstRunWord(EffectContext& context, const Migration& record) {
  const auto deadline = steady_clock::now() + context.dependencies.timeouts.first_run;
  const auto left = [deadline] {
    return std::max(std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now()),
                    milliseconds(0));
  };
  while (true) {
    absl::StatusOr<LinkEvent> event = context.escrow.target_link->AwaitEvent(
        record.id, {LinkEvent::Kind::kFirstRun, LinkEvent::Kind::kFirstRunFailed}, left(), nullptr);
    if (event.ok() && event->kind == LinkEvent::Kind::kFirstRun) {
      return {FirstRunWord::Kind::kRan};
    }
    if (event.ok() && event->kind == LinkEvent::Kind::kFirstRunFailed) {
      return {FirstRunWord::Kind::kFailed, event->text};
    }
    const bool closed = context.escrow.target_link->closed();
    if (closed && !MeetTargetAgain(context, record, left())) return {};
    if (SaysItRuns(context, record)) return {FirstRunWord::Kind::kRan};
    const bool silent = !closed && absl::IsDeadlineExceeded(event.status());
    if (silent || left() == milliseconds(0)) return {};
    // We could not wait for its word, which says nothing about it.
    if (!closed) std::this_thread::sleep_for(std::min(kLookPause, left()));
  }
}

Outcome AwaitTargetsWord(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  // The event may have gone to a daemon that has ended.
  if (record.restarts > 0 && SaysItRuns(context, record)) {
    return {Event::kFirstRunSeen, {}, std::move(record)};
  }
  const FirstRunWord word = AwaitFirstRunWord(context, record);
  // Not before: the target stamps RUNNING just after the verdict that woke us.
  if (escrow.block != nullptr) record.phases = escrow.Phases(escrow.handover_start_ns);
  switch (word.kind) {
    case FirstRunWord::Kind::kRan:
      return {Event::kFirstRunSeen, {}, std::move(record)};
    case FirstRunWord::Kind::kFailed:
      return {Event::kTargetLost,
              {"FIRST_RUN_FAILED", absl::StrCat("the target could not run the guest: ", word.text)},
              std::move(record)};
    case FirstRunWord::Kind::kNone:
      break;
  }
  // Silent, or gone: only its process tells whether the guest is lost.
  if (AwaitExit(escrow.target_pidfd.borrow(), context.dependencies.timeouts.release)) {
    return {Event::kTargetLost,
            {"TARGET_DIED", "the target VMM died after it had taken the guest over"},
            std::move(record)};
  }
  return {Event::kUnreachable,
          {"FIRST_RUN_NOT_SEEN", "the target owns the guest and lives, but did not confirm a run"},
          std::move(record)};
}

// Who else has the memory of a guest that stayed on the source, once the target is gone: a process
// that the target left behind, as a rule. Noted for people; the guest is where it was, and no
// rollback fails because of it, nor because nobody could look.
void NoteForeignHolders(EffectContext& context, Migration& record) {
  if (record.owner != GuestOwner::kSource) return;
  // Or the service manager is found among them.
  context.dependencies.store->Barrier().IgnoreError();
  absl::StatusOr<HolderSearch> search =
      context.dependencies.fence->FindHolders(record.memory_inodes, {record.source});
  if (!search.ok() || search->Foreign().empty()) return;
  record.fence.search = *std::move(search);
  // In a fence proof those that are expected are target and daemon, and this is none.
  for (InodeSearch& found : record.fence.search.memory) {
    std::erase_if(found.holders, [](const InodeHolder& holder) {
      return holder.holder_class != HolderClass::kForeign;
    });
  }
}

}  // namespace

Outcome AwaitFirstRunEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  if (!escrow.target_link->closed()) {
    context.dependencies.vms->HandOver(record.request.vm_id, escrow.target_link);
  }
  NoteProofOfTarget(escrow, record);
  Outcome outcome = AwaitTargetsWord(context, std::move(record));
  // Here and not when the source is ended: what it says is then in the journal before it can no
  // longer be asked.
  if (WasMoved(context, outcome.update)) return outcome;
  // It explains a target that is silent; one that is dead has lost the guest in any case.
  const absl::Status not_moved = NotMoved(outcome.update);
  if (outcome.event == Event::kTargetLost) {
    absl::StrAppend(&outcome.cause.message, "; ", std::string(not_moved.message()));
    return outcome;
  }
  return FailedOutcome(Event::kFenceIncomplete, not_moved, std::move(outcome.update));
}

Outcome FenceSourceEffect(EffectContext& context, Migration record) {
  record.fence.observer = {"rehomed", IdentifySelf()};
  record.fence.source = record.source;
  record.fence.kernel_release = KernelRelease();
  // Once more: the answer may have been a daemon's that ended before it was in the journal.
  const bool was_moved = WasMoved(context, record);
  absl::Status status = EndSource(context, record);
  // After RUNNING nothing is rescued, and the service manager would be found among the holders. If
  // it does not listen, the search says so.
  context.dependencies.store->Remove(record.id).IgnoreError();
  context.dependencies.store->Barrier().IgnoreError();
  if (status.ok()) status = CheckHolders(context, record);
  if (status.ok() && !was_moved) status = NotMoved(record);
  // Last of all, because it explains whatever else was found.
  const bool target_lost = TargetIsLost(context, record);
  // A target that found back late has registered while its id was still taken.
  if (!target_lost && context.escrow.target_link->closed()) {
    absl::StatusOr<std::shared_ptr<VmmLink>> late =
        context.dependencies.await_link(record.target, milliseconds(0), nullptr);
    if (late.ok()) context.dependencies.vms->HandOver(record.request.vm_id, *late);
  }
  DropEscrow(context, record);
  if (target_lost) {
    return {Event::kTargetLost,
            {"TARGET_DIED", "the target VMM died while the source was being fenced"},
            std::move(record)};
  }
  if (!status.ok()) {
    return FailedOutcome(Event::kFenceIncomplete, Annotate(status, "fencing the source"),
                         std::move(record));
  }
  return {Event::kFenceProven, {}, std::move(record)};
}

Outcome DiscardTargetEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const bool ends_source = EndsEmptySource(record);
  // First, and whatever becomes of the target: the source's hold ends here. A source that does not
  // answer is cut off; it drops its hold when it sees the verdict or loses the connection.
  if (!ends_source && escrow.source_link != nullptr && !escrow.source_link->closed() &&
      !escrow.source_link->Cancel(record.id, context.dependencies.timeouts.agent).ok()) {
    escrow.source_link->Close();
  }
  const absl::Status source_ended = ends_source ? EndSource(context, record) : absl::OkStatus();
  absl::Status status = absl::OkStatus();
  if (escrow.target_pidfd.valid()) {
    Fence& fence = *context.dependencies.fence;
    status = fence.Kill(escrow.target_pidfd.borrow());
    if (status.ok()) {
      status = fence.AwaitExit(escrow.target_pidfd.borrow(), ExitTimeout(context)).status();
    }
  }
  if (escrow.target_link != nullptr) escrow.target_link->Close();
  // A target that was never prepared has had nothing of the guest, and nobody waits for a search.
  const bool target_had_memory = escrow.target.has_value();
  DropEscrow(context, record);
  if (status.ok() && target_had_memory) NoteForeignHolders(context, record);
  if (!source_ended.ok()) {
    return FailedOutcome(Event::kFenceIncomplete, Annotate(source_ended, "ending the empty source"),
                         std::move(record));
  }
  if (status.ok()) return {Event::kTargetDiscarded, {}, std::move(record)};
  return {Event::kFenceIncomplete,
          {"TARGET_NOT_DISCARDED", std::string(status.message())},
          std::move(record)};
}

}  // namespace rehome
