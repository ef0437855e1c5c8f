// SPDX-License-Identifier: Apache-2.0
#include "daemon/completion_effects.h"

#include <sys/utsname.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

milliseconds ExitTimeout(const EffectContext& context) {
  const uint64_t gib = context.escrow.MemoryBytes() >> 30;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  return timeouts.exit + timeouts.exit_per_gib * static_cast<int64_t>(gib);
}

std::string KernelRelease() {
  utsname name{};
  return uname(&name) == 0 ? name.release : "";
}

// Polite first, then certain. The proof is the exit, however it came about.
absl::Status EndSource(EffectContext& context, Migration& record) {
  Escrow& escrow = context.escrow;
  Fence& fence = *context.dependencies.fence;
  const milliseconds release = context.dependencies.timeouts.release;
  bool leaving = record.fence.kill_sent_ns != 0;
  if (!leaving && escrow.source_link->Release(record.id, release).ok()) {
    leaving = AwaitExit(escrow.source_pidfd.borrow(), release);
  }
  if (!leaving) {
    record.fence.kill_sent_ns = rehome_monotonic_ns();
    if (absl::Status status = fence.Kill(escrow.source_pidfd.borrow()); !status.ok()) return status;
  }
  absl::StatusOr<uint64_t> exited =
      fence.AwaitExit(escrow.source_pidfd.borrow(), ExitTimeout(context));
  if (!exited.ok()) return exited.status();
  record.fence.process_exited = true;
  record.fence.exited_ns = *exited;
  return absl::OkStatus();
}

absl::Status CheckHolders(EffectContext& context, Migration& record) {
  const std::vector<InodeId> inodes = context.escrow.MemoryInodes();
  absl::StatusOr<std::vector<InodeHolder>> holders =
      context.dependencies.fence->FindHolders(inodes, {record.target});
  if (!holders.ok()) return holders.status();
  record.fence.inodes_checked = static_cast<uint32_t>(inodes.size());
  record.fence.foreign_holders = *std::move(holders);
  if (record.fence.foreign_holders.empty()) return absl::OkStatus();
  const InodeHolder& first = record.fence.foreign_holders.front();
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "MEMORY_STILL_HELD",
                    absl::StrCat("process ", first.pid, " (", first.command, ") still holds the ",
                                 "guest's memory by ", first.how));
}

}  // namespace

Outcome AwaitFirstRunEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  context.dependencies.vms->HandOver(record.request.vm_id, escrow.target_link);
  absl::StatusOr<LinkEvent> event = escrow.target_link->AwaitEvent(
      record.id, {LinkEvent::Kind::kFirstRun, LinkEvent::Kind::kFirstRunFailed},
      context.dependencies.timeouts.first_run, nullptr);
  // Not before: the target stamps RUNNING just after the verdict that woke us.
  record.phases = escrow.block->Phases(escrow.handover_start_ns);
  if (event.ok() && event->kind == LinkEvent::Kind::kFirstRun) {
    return {Event::kFirstRunSeen, {}, std::move(record)};
  }
  if (event.ok() && event->kind == LinkEvent::Kind::kFirstRunFailed) {
    return {Event::kTargetLost,
            {"FIRST_RUN_FAILED", absl::StrCat("the target could not run the guest: ", event->text)},
            std::move(record)};
  }
  // The connection is closed or silent; only its process tells whether the guest is lost.
  if (AwaitExit(escrow.target_pidfd.borrow(), context.dependencies.timeouts.release)) {
    return {Event::kTargetLost,
            {"TARGET_DIED", "the target VMM died after it had taken the guest over"},
            std::move(record)};
  }
  return {Event::kUnreachable,
          {"FIRST_RUN_NOT_SEEN", "the target owns the guest and lives, but did not confirm a run"},
          std::move(record)};
}

Outcome FenceSourceEffect(EffectContext& context, Migration record) {
  record.fence.observer = "rehomed";
  record.fence.source = record.source;
  record.fence.kernel_release = KernelRelease();
  absl::Status status = EndSource(context, record);
  if (status.ok()) status = CheckHolders(context, record);
  // Last, so that until here a rescue would have had everything it needs.
  context.escrow.CloseMemory();
  if (!status.ok()) {
    return FailedOutcome(Event::kFenceIncomplete, Annotate(status, "fencing the source"),
                         std::move(record));
  }
  return {Event::kFenceProven, {}, std::move(record)};
}

Outcome DiscardTargetEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const milliseconds timeout = context.dependencies.timeouts.agent;
  Failure cause;
  if (escrow.target_pidfd.valid()) {
    Fence& fence = *context.dependencies.fence;
    absl::Status status = fence.Kill(escrow.target_pidfd.borrow());
    if (status.ok()) {
      status = fence.AwaitExit(escrow.target_pidfd.borrow(), ExitTimeout(context)).status();
    }
    if (!status.ok()) cause = {"TARGET_NOT_DISCARDED", std::string(status.message())};
  }
  // A source that does not answer drops its hold when it sees the verdict or loses the connection.
  if (escrow.source_link != nullptr && !escrow.source_link->closed()) {
    (void)escrow.source_link->Cancel(record.id, timeout);
  }
  if (escrow.target_link != nullptr) escrow.target_link->Close();
  escrow.CloseMemory();
  return {Event::kTargetDiscarded, std::move(cause), std::move(record)};
}

}  // namespace rehome
