// SPDX-License-Identifier: Apache-2.0
#include "daemon/brownout_effects.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/escrow_keeping.h"
#include "daemon/preflight.h"
#include "daemon/process_identity.h"
#include "daemon/target_build.h"
#include "daemon/trace_keeping.h"
#include "kvmglue/status_reason.h"

namespace rehome {

Outcome PreflightEffect(EffectContext& context, Migration record) {
  const EffectDependencies& dependencies = context.dependencies;
  const PreflightInputs inputs = {
      .host = dependencies.host,
      .vms = dependencies.vms,
      .launcher = dependencies.launcher,
      .fence = dependencies.fence,
      .agent_timeout = dependencies.timeouts.agent,
  };
  RunPreflight(inputs, context.interrupt, context.escrow, record);
  record.memory_inodes = context.escrow.MemoryInodes();
  Failure failure = FirstFailure(record.preflight);
  if (failure.reason.empty()) return {Event::kPreflightPassed, {}, std::move(record)};
  const Event event = failure.reason == "INTERRUPTED" ? Event::kInterrupted : Event::kRefused;
  return {event, std::move(failure), std::move(record)};
}

Outcome LaunchTargetEffect(EffectContext& context, Migration record) {
  const absl::Status started = StartTarget(context, record, &context.interrupt);
  if (!started.ok()) return FailedOutcome(Event::kRefused, started, std::move(record));
  return {Event::kTargetConnected, {}, std::move(record)};
}

Outcome PrepareTargetEffect(EffectContext& context, Migration record) {
  absl::StatusOr<BuiltTarget> built = BuildInTarget(context, record, &context.interrupt);
  if (!built.ok()) return FailedOutcome(Event::kRefused, built.status(), std::move(record));
  context.escrow.block = std::move(built->block);
  context.escrow.target = std::move(built->vm);
  return {Event::kTargetPrepared, {}, std::move(record)};
}

Outcome ArmEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const std::chrono::milliseconds timeout = context.dependencies.timeouts.agent;
  OfferTraceArea(context, record.id, *escrow.target_link, &escrow.target_trace);
  absl::Status status = escrow.target_link->ArmTarget(record.id, escrow.source_pidfd.borrow(),
                                                      timeout, &context.interrupt);
  if (!status.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(status, "arming the target"), std::move(record));
  }
  OfferTraceArea(context, record.id, *escrow.source_link, &escrow.source_trace);
  status = escrow.source_link->ArmSource({.migration_id = record.id,
                                          .layout_digest = record.layout_digest,
                                          .state_format = escrow.source->state_format,
                                          .block = escrow.block->fd(),
                                          .target_pidfd = escrow.target_pidfd.borrow()},
                                         timeout, &context.interrupt);
  if (!status.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(status, "arming the source"), std::move(record));
  }
  status = KeepEscrow(context, record);
  if (!status.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(status, "storing the escrow"),
                         std::move(record));
  }
  record.armed_ns = rehome_monotonic_ns();
  return {Event::kArmed, {}, std::move(record)};
}

namespace {

// A dying process is noticed by others, and closes its connection, a little before its pidfd tells;
// on a host that has much to do, longer. An interrupt is an order and no sign of death.
bool SourceHasDied(EffectContext& context, const Outcome& outcome) {
  const Escrow& escrow = context.escrow;
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  const std::chrono::milliseconds wait =
      outcome.event == Event::kRefused ? timeouts.release : std::chrono::milliseconds(0);
  if (escrow.source_link == nullptr) {
    // Gone before preflight asked for it. The record knows whose the VM was.
    const ProcessIdentity& source = outcome.update.source;
    absl::StatusOr<UniqueFd> found = FindProcess(source);
    if (source.pid == 0 || !found.ok()) return false;
    return !found->valid() || AwaitExit(found->borrow(), wait);
  }
  // A source that died at DESCRIBE left no pidfd in the escrow yet; its link has one.
  const BorrowedFd pidfd =
      escrow.source_pidfd.valid() ? escrow.source_pidfd.borrow() : escrow.source_link->pidfd();
  if (!pidfd.valid()) return false;
  return AwaitExit(pidfd, wait) ||
         (escrow.source_link->closed() && AwaitExit(pidfd, timeouts.agent));
}

}  // namespace

Outcome LossIfSourceDied(EffectContext& context, Outcome outcome) {
  const bool failed = outcome.event == Event::kRefused || outcome.event == Event::kInterrupted;
  if (!failed || !SourceHasDied(context, outcome)) return outcome;
  outcome.event = Event::kSourceLost;
  const Failure died = {"SOURCE_DIED", absl::StrCat("the source VMM exited before the handover (",
                                                    outcome.cause.message, ")")};
  outcome.cause = GuestEnded(context, outcome.update, std::chrono::milliseconds(0)).value_or(died);
  return outcome;
}

}  // namespace rehome
