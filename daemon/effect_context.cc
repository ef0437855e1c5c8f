// SPDX-License-Identifier: Apache-2.0
#include "daemon/effect_context.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/rescue_rules.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// 16 TiB, above the largest hosts.
constexpr uint64_t kMaxExitGib = 16384;

}  // namespace

Outcome FailedOutcome(Event event, const absl::Status& status, Migration update) {
  const std::string reason = ReasonOf(status);
  if (reason == "INTERRUPTED") event = Event::kInterrupted;
  return {event, Failure{reason, std::string(status.message())}, std::move(update)};
}

std::chrono::milliseconds ExitTimeout(const EffectContext& context) {
  // Clamped: a sparse file can claim any size.
  const uint64_t gib = std::min<uint64_t>(context.escrow.MemoryBytes() >> 30, kMaxExitGib);
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  return timeouts.exit + timeouts.exit_per_gib * static_cast<int64_t>(gib);
}

bool HasExited(BorrowedFd pidfd) { return AwaitExit(pidfd, std::chrono::milliseconds(0)); }

bool AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout) {
  return !pidfd.valid() || AwaitExitOf(pidfd, timeout);
}

absl::Status KillProcess(EffectContext& context, const UniqueFd& pidfd) {
  if (!pidfd.valid()) return absl::OkStatus();
  return context.dependencies.fence->Kill(pidfd.borrow());
}

std::optional<Failure> GuestEnded(EffectContext& context, const Migration& record,
                                  std::chrono::milliseconds wait) {
  Escrow& escrow = context.escrow;
  if (!escrow.guest_ended.has_value() && escrow.source_link != nullptr) {
    absl::StatusOr<LinkEvent> event =
        escrow.source_link->AwaitEvent(record.id, {LinkEvent::Kind::kGuestStopped}, wait, nullptr);
    if (event.ok() && event->kind == LinkEvent::Kind::kGuestStopped) {
      escrow.guest_ended = event->text;
    }
  }
  if (!escrow.guest_ended.has_value()) return std::nullopt;
  return Failure{std::string(reason::kGuestEnded),
                 absl::StrCat("the guest of VM ", record.request.vm_id,
                              " ended by itself on the source: ", *escrow.guest_ended)};
}

std::optional<std::string> WhyResumed(EffectContext& context, const Migration& record,
                                      std::chrono::milliseconds wait) {
  Escrow& escrow = context.escrow;
  if (!escrow.resumed.has_value() && escrow.source_link != nullptr) {
    absl::StatusOr<LinkEvent> event =
        escrow.source_link->AwaitEvent(record.id, {LinkEvent::Kind::kResumed}, wait, nullptr);
    if (event.ok() && event->kind == LinkEvent::Kind::kResumed) escrow.resumed = event->text;
  }
  return escrow.resumed;
}

void NoteVmDead(Migration& record) {
  if (record.fence.kernel_vm_dead) return;
  record.fence.kernel_vm_dead = true;
  record.fence.kernel_observer = {"source", record.source};
  record.fence.kernel_dead_seen_ns = rehome_monotonic_ns();
}

void AnnounceStopped(EffectContext& context, Migration& record, uint64_t stopped_ns) {
  context.escrow.block->SetFenceProven();
  if (record.fence_policy != FencePolicy::kBeforeResume || record.fence.stopped_before_resume) {
    return;
  }
  record.fence.stop_observer = {"rehomed", IdentifySelf()};
  record.fence.tasks_stopped_ns = stopped_ns;
  record.fence.stopped_before_resume = true;
}

uint64_t Nanoseconds(std::chrono::milliseconds duration) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(duration).count());
}

std::chrono::milliseconds ClaimTimeout(const EffectContext& context, const Migration& record) {
  const std::chrono::milliseconds first = record.request.handover_timeout.count() > 0
                                              ? record.request.handover_timeout
                                              : context.dependencies.timeouts.claim;
  return ClaimTimeoutOf(record, first);
}

uint64_t OverdueNs(const EffectContext& context, const Migration& record) {
  return context.escrow.handover_start_ns + Nanoseconds(ClaimTimeout(context, record)) +
         Nanoseconds(context.dependencies.timeouts.resolve) + kStuckMarginNs;
}

}  // namespace rehome
