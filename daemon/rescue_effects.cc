// SPDX-License-Identifier: Apache-2.0
#include "daemon/rescue_effects.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/escrow_keeping.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/rescue_rules.h"
#include "daemon/strategy.h"
#include "daemon/target_build.h"
#include "daemon/trace_keeping.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

// Looks at a verdict that somebody else moves meanwhile. The table has no longer way to its end; a
// word that still changes then is being scribbled on.
constexpr int kMaxLooks = 8;

struct Taken {
  uint32_t before = 0;  // the last verdict that was not our doing
  uint32_t now = 0;     // ABORTED or RUNNING, for good; else the word holds garbage
};

Taken TakeVerdict(HandoverBlock& block) {
  Taken taken;
  for (int look = 0; look < kMaxLooks; ++look) {
    taken.before = taken.now = block.verdict();
    if (taken.now == REHOME_VERDICT_RUNNING || taken.now == REHOME_VERDICT_ABORTED) break;
    if (block.AbortFrom(taken.now)) {
      taken.now = REHOME_VERDICT_ABORTED;
      break;
    }
  }
  return taken;
}

// REQUIRES: the verdict is ABORTED, or the target was never armed: then it may be killed unasked.
absl::Status EndTarget(EffectContext& context) {
  const UniqueFd& pidfd = context.escrow.target_pidfd;
  if (HasExited(pidfd.borrow())) return absl::OkStatus();
  if (absl::Status killed = KillProcess(context, pidfd); !killed.ok()) return killed;
  return context.dependencies.fence->AwaitExit(pidfd.borrow(), ExitTimeout(context)).status();
}

// The order of the candidates for the context is this daemon's alone and not journalled: a daemon
// that takes over begins again with the newest. It may spend an attempt, which is journalled, on a
// VM that has refused already. No more is at stake: the kernel refuses MOVE from a VM that has
// nothing, which changes nothing, and each resolve has one attempt more, in the order that the
// escrow kept meanwhile.

// The latest target's VM, which is not its target's any more. Empty: there is none of it.
std::optional<ContextVm> TakeTargetVm(Escrow& escrow) {
  if (!escrow.target.has_value() || !escrow.target->vm.valid()) return std::nullopt;
  return ContextVm{std::move(escrow.target->vm), std::move(escrow.target->memory)};
}

// By its own stamp, which a target makes before it may MOVE.
bool HasClaimed(const HandoverBlock& block) { return block.Phases(0)[REHOME_PHASE_CLAIMED] != 0; }

enum class Closed { kRunning, kClosed, kFailed };

// Ends the handover to the latest target so that nobody can go on from it: verdict first, so that
// whoever is killed then has lost.
Closed CloseHandover(EffectContext& context, const Migration& record, Failure* why_not) {
  Escrow& escrow = context.escrow;
  const Taken taken = TakeVerdict(*escrow.block);
  if (taken.now == REHOME_VERDICT_RUNNING) return Closed::kRunning;
  if (taken.now != REHOME_VERDICT_ABORTED) {
    *why_not = {std::string(reason::kVerdictCorrupt), "the verdict word holds no legal value"};
    return Closed::kFailed;
  }
  if (absl::Status ended = EndTarget(context); !ended.ok()) {
    *why_not = {std::string(reason::kTargetNotDiscarded), std::string(ended.message())};
    return Closed::kFailed;
  }
  if (HasMove(record.strategy) && !escrow.target_settled) {
    const bool had_no_right = taken.before == REHOME_VERDICT_OPEN;
    std::optional<ContextVm> vm = had_no_right ? std::nullopt : TakeTargetVm(escrow);
    if (taken.before == REHOME_VERDICT_ABORTED && !HasClaimed(*escrow.block)) {
      NoteNeverClaimed(escrow.context, std::move(vm));
    } else {
      NoteWhereContextIs(escrow.context, taken.before, std::move(vm));
    }
  }
  escrow.target_settled = true;
  return Closed::kClosed;
}

// Whether these are files of the same memory, all of it: of what a store gave back some may be
// missing.
bool AreSameMemory(const std::vector<UniqueFd>& a, const std::vector<UniqueFd>& b) {
  const auto inodes = [](const std::vector<UniqueFd>& files) {
    std::vector<uint64_t> numbers;
    for (const UniqueFd& file : files) {
      const auto identity = Identify(file.borrow());
      numbers.push_back(identity.ok() ? identity->id.inode : 0);
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  };
  return inodes(a) == inodes(b);
}

// PREPARE tells of the VM that the context is in, and gives the guest's memory by that VM's own
// files: a binding ends with its file, and a target that has them needs this daemon no more. For
// the rest of the daemon the source's description stays what it is.
class ContextInPlace {
 public:
  explicit ContextInPlace(Escrow& escrow) : escrow_(escrow) {
    if (escrow.context.empty()) return;
    const ContextVm& first = escrow.context.front();
    swaps_vm_ = first.vm.valid();
    swaps_memory_ = swaps_vm_ && AreSameMemory(first.memory, escrow.source->memory);
    Swap();
  }
  ~ContextInPlace() { Swap(); }
  ContextInPlace(const ContextInPlace&) = delete;
  ContextInPlace& operator=(const ContextInPlace&) = delete;

 private:
  void Swap() {
    if (swaps_vm_) std::swap(escrow_.source->vm, escrow_.context.front().vm);
    if (swaps_memory_) std::swap(escrow_.source->memory, escrow_.context.front().memory);
  }
  Escrow& escrow_;
  bool swaps_vm_ = false, swaps_memory_ = false;
};

absl::Status BuildOne(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  if (absl::Status started = StartTarget(context, record, nullptr); !started.ok()) return started;
  record.rescue.context_from_target = !escrow.context.empty() && escrow.context.front().vm.valid();
  absl::StatusOr<BuiltTarget> built = [&] {
    const ContextInPlace in_place(escrow);
    return BuildInTarget(context, record, nullptr);
  }();
  if (!built.ok()) return built.status();
  if (escrow.saved == nullptr) escrow.saved = std::move(escrow.block);
  escrow.block = std::move(built->block);
  escrow.block_is_rescues = true;
  escrow.target = std::move(built->vm);
  escrow.target_settled = false;
  if (KeepRescue(context, record).ok()) return absl::OkStatus();
  return context.dependencies.store->Remove(record.id);
}

Outcome Unreachable(const Failure& why, Migration record) {
  return {Event::kUnreachable, why, std::move(record)};
}

// What the target said of itself, if it refused.
std::optional<std::string> Refusal(EffectContext& context, const Migration& record) {
  // Sent before the verdict moved or the process ended, so it is here or on its way. What it says
  // decides where the guest's context is looked for next; a closed link ends the wait.
  absl::StatusOr<LinkEvent> said = context.escrow.target_link->AwaitEvent(
      record.id, {LinkEvent::Kind::kTakeOverFailed}, context.dependencies.timeouts.agent, nullptr);
  if (!said.ok() || said->kind != LinkEvent::Kind::kTakeOverFailed) return std::nullopt;
  return said->text;
}

// What became of the new target, as long as it is not RUNNING.
std::optional<Failure> LookAtTarget(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  // Its exit first: what the dead wrote is final then.
  const bool exited = HasExited(escrow.target_pidfd.borrow());
  const uint32_t verdict = escrow.block->verdict();
  const bool aborted = verdict == REHOME_VERDICT_ABORTED;
  if (!aborted && !exited) return std::nullopt;
  std::optional<std::string> said;
  if (aborted || verdict == REHOME_VERDICT_CLAIMED) said = Refusal(context, record);
  if (!aborted && !said.has_value()) {
    return Failure{std::string(reason::kTargetDied),
                   "the rescue's target died before it ran the guest"};
  }
  if (!aborted) {
    if (HasMove(record.strategy)) {
      NoteFailureOfClaimant(escrow.context, TakeTargetVm(escrow).value_or(ContextVm()));
    }
  } else if (HasClaimed(*escrow.block)) {
    NoteRefusal(escrow.context);  // and its VM has nothing to take
  }
  escrow.target_settled = true;
  return Failure{std::string(reason::kTakeOverFailed),
                 absl::StrCat("the rescue's target refused", said ? ": " + *said : "")};
}

absl::Status ArmWithState(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  // A process that was gone before we came has no pidfd; the target is to see a dead one.
  absl::StatusOr<UniqueFd> stand_in = UniqueFd();
  if (!escrow.source_pidfd.valid()) stand_in = OpenDeadProcess();
  if (!stand_in.ok()) return stand_in.status();
  // Before the target is armed: that is how its agent knows that nobody but us will announce.
  if (HasExited(escrow.source_pidfd.borrow())) {
    AnnounceStopped(context, record, rehome_monotonic_ns());
  }
  const BorrowedFd source =
      escrow.source_pidfd.valid() ? escrow.source_pidfd.borrow() : stand_in->borrow();
  OfferTraceArea(context, record.id, *escrow.target_link, &escrow.target_trace);
  absl::Status armed = escrow.target_link->ArmTarget(record.id, source,
                                                     context.dependencies.timeouts.agent, nullptr);
  if (!armed.ok()) return Annotate(armed, "arming the rescue's target");
  return escrow.block->AnnounceStateOf(escrow.StateBlock());
}

// Empty: the verdict is RUNNING. Else what kept it from that.
std::optional<Failure> AwaitRunning(EffectContext& context, const Migration& record) {
  HandoverBlock& block = *context.escrow.block;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  const uint64_t limit = rehome_monotonic_ns() + Nanoseconds(ClaimTimeout(context, record)) +
                         Nanoseconds(timeouts.resolve) + kStuckMarginNs;
  for (uint64_t now = 0; now < limit; now = rehome_monotonic_ns()) {
    if (block.verdict() == REHOME_VERDICT_RUNNING) return std::nullopt;
    if (std::optional<Failure> ended = LookAtTarget(context, record)) return ended;
    block.WaitVerdictIn(REHOME_VERDICTS_FINAL, std::min(now + kVerdictSliceNs, limit));
  }
  return Failure{std::string(reason::kHandoverStuck),
                 "the rescue's target did not run the guest within both time-outs"};
}

}  // namespace

Outcome BuildRescueEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  if (!escrow.HoldsGuest(HasMove(record.strategy), record.fence.kernel_vm_dead) ||
      !escrow.StateBlock().SourceReady()) {
    return {Event::kSourceLost,
            {std::string(reason::kGuestLost), "the escrow has no saved state to go on from"},
            std::move(record)};
  }
  Failure why_not;
  switch (CloseHandover(context, record, &why_not)) {
    case Closed::kRunning:
      return {Event::kVerdictRunning, {}, std::move(record)};
    case Closed::kFailed:
      return Unreachable(why_not, std::move(record));
    case Closed::kClosed:
      break;
  }
  for (;;) {
    const absl::Status built = BuildOne(context, record);
    if (built.ok()) return {Event::kTargetPrepared, {}, std::move(record)};
    // The one that failed was never armed, so it never was a target of this handover.
    record.target = record.rescue.dead_target;
    NoteFailedAttempt({ReasonOf(built), std::string(built.message())}, &record.rescue);
    if (absl::Status ended = EndTarget(context); !ended.ok()) {
      return Unreachable({std::string(reason::kTargetNotDiscarded), std::string(ended.message())},
                         std::move(record));
    }
    if (record.rescue.attempts >= kMaxRescueAttempts) {
      return Unreachable({std::string(reason::kRescueFailed),
                          absl::StrCat("no target could be built in attempt ",
                                       record.rescue.attempts, ": ", built.message())},
                         std::move(record));
    }
    ++record.rescue.attempts;
  }
}

Outcome HandOverToRescueEffect(EffectContext& context, Migration record) {
  const absl::Status armed = ArmWithState(context, record);
  std::optional<Failure> failure = armed.ok()
                                       ? AwaitRunning(context, record)
                                       : Failure{ReasonOf(armed), std::string(armed.message())};
  if (failure.has_value()) {
    Failure why_not;
    const Closed closed = CloseHandover(context, record, &why_not);
    if (closed == Closed::kClosed) return {Event::kStuck, *failure, std::move(record)};
    if (closed == Closed::kFailed) return Unreachable(why_not, std::move(record));
  }
  record.phases = context.escrow.Phases(record.armed_ns);
  return {Event::kVerdictRunning, {}, std::move(record)};
}

}  // namespace rehome
