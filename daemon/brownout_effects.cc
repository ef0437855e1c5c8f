// SPDX-License-Identifier: Apache-2.0
#include "daemon/brownout_effects.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/preflight.h"
#include "daemon/strategy.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

absl::Status Mismatch(std::string_view reason, std::string_view message) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, message);
}

absl::Status CheckHello(const VmmHello& target, const VmDescription& source, Strategy strategy) {
  if (source.state_format < target.state_format_read_min ||
      source.state_format > target.state_format_read_max) {
    return Mismatch(
        "STATE_FORMAT_UNSUPPORTED",
        absl::StrCat("the source writes state format ", source.state_format, ", the target reads ",
                     target.state_format_read_min, " to ", target.state_format_read_max));
  }
  const uint32_t missing = RequiredFeatures(strategy) & ~target.features;
  if (missing != 0) {
    return Mismatch("AGENT_LACKS_FEATURE",
                    absl::StrCat("the target VMM's agent lacks feature bits ", absl::Hex(missing)));
  }
  return absl::OkStatus();
}

// The target's answer to PREPARE against the source's description.
absl::Status CompareSides(const VmDescription& source, const VmDescription& target,
                          Strategy strategy, BorrowedFd target_pidfd) {
  if (target.vm_id != source.vm_id) {
    return Mismatch("TARGET_MISMATCH", absl::StrCat("the target prepared VM ", target.vm_id));
  }
  if (target.vm_type != source.vm_type) {
    return Mismatch("VM_TYPE_MISMATCH",
                    absl::StrCat("the target created a ", std::string(VmTypeName(target.vm_type)),
                                 " VM for a ", std::string(VmTypeName(source.vm_type)), " guest"));
  }
  if (target.vcpu_count != source.vcpu_count) {
    return Mismatch("VCPU_COUNT_MISMATCH", absl::StrCat("the target has ", target.vcpu_count,
                                                        " vCPUs, the source ", source.vcpu_count));
  }
  const GuestMemfdFlag flag =
      HasLink(strategy) ? GuestMemfdFlag::kMustMatch : GuestMemfdFlag::kIgnored;
  if (absl::Status status = CompareLayouts(source.layout, target.layout, flag); !status.ok()) {
    return status;
  }
  // With LINK the kernel compares the bindings once more at MOVE; a mapping only we can see.
  if (HasLink(strategy)) return absl::OkStatus();
  return VerifyMappings(target_pidfd, target.layout);
}

absl::StatusOr<std::unique_ptr<HandoverBlock>> CreateBlock(const EffectContext& context,
                                                           const Migration& record) {
  const EffectTimeouts& timeouts = context.dependencies.timeouts;
  return HandoverBlock::Create({
      .migration_id = record.id,
      .state_capacity = context.escrow.source->state_capacity,
      .claim_timeout = record.request.handover_timeout.count() > 0 ? record.request.handover_timeout
                                                                   : timeouts.claim,
      .resolve_timeout = timeouts.resolve,
      .strategy = record.strategy,
      .fence_policy = record.fence_policy,
  });
}

}  // namespace

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
  const EffectDependencies& dependencies = context.dependencies;
  Escrow& escrow = context.escrow;
  absl::StatusOr<LaunchedVmm> launched =
      dependencies.launcher->Launch(record.request.target_profile, record.id);
  if (!launched.ok()) return FailedOutcome(Event::kRefused, launched.status(), std::move(record));
  record.target = launched->process;
  absl::StatusOr<UniqueFd> pidfd = Duplicate(launched->pidfd.borrow());
  // Whatever happens next, DiscardTarget must be able to kill what was just started.
  escrow.target_pidfd = pidfd.ok() ? *std::move(pidfd) : std::move(launched->pidfd);
  if (!pidfd.ok()) return FailedOutcome(Event::kRefused, pidfd.status(), std::move(record));

  absl::StatusOr<std::shared_ptr<VmmLink>> link =
      dependencies.adopt_target(*launched, dependencies.timeouts.launch, &context.interrupt);
  if (!link.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(link.status(), "waiting for the target VMM"),
                         std::move(record));
  }
  escrow.target_link = *std::move(link);
  const VmmHello& hello = escrow.target_link->hello();
  record.target_vmm = absl::StrCat(hello.vmm_name, " ", hello.vmm_version);
  if (absl::Status status = CheckHello(hello, *escrow.source, record.strategy); !status.ok()) {
    return FailedOutcome(Event::kRefused, status, std::move(record));
  }
  return {Event::kTargetConnected, {}, std::move(record)};
}

Outcome PrepareTargetEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  absl::StatusOr<std::unique_ptr<HandoverBlock>> block = CreateBlock(context, record);
  if (!block.ok()) return FailedOutcome(Event::kRefused, block.status(), std::move(record));
  escrow.block = *std::move(block);

  absl::StatusOr<VmDescription> target =
      escrow.target_link->Prepare({.migration_id = record.id,
                                   .strategy = record.strategy,
                                   .fence_policy = record.fence_policy,
                                   .source = &*escrow.source,
                                   .block = escrow.block->fd()},
                                  context.dependencies.timeouts.prepare, &context.interrupt);
  if (!target.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(target.status(), "the target's PREPARE"),
                         std::move(record));
  }
  escrow.target = *std::move(target);
  absl::Status same =
      CompareSides(*escrow.source, *escrow.target, record.strategy, escrow.target_pidfd.borrow());
  if (!same.ok()) return FailedOutcome(Event::kRefused, same, std::move(record));
  return {Event::kTargetPrepared, {}, std::move(record)};
}

Outcome ArmEffect(EffectContext& context, Migration record) {
  Escrow& escrow = context.escrow;
  const std::chrono::milliseconds timeout = context.dependencies.timeouts.agent;
  absl::Status status = escrow.target_link->ArmTarget(record.id, escrow.source_pidfd.borrow(),
                                                      timeout, &context.interrupt);
  if (!status.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(status, "arming the target"), std::move(record));
  }
  status = escrow.source_link->ArmSource(record.id, record.layout_digest, escrow.block->fd(),
                                         escrow.target_pidfd.borrow(), timeout, &context.interrupt);
  if (!status.ok()) {
    return FailedOutcome(Event::kRefused, Annotate(status, "arming the source"), std::move(record));
  }
  return {Event::kArmed, {}, std::move(record)};
}

Outcome LossIfSourceDied(EffectContext& context, Outcome outcome) {
  const bool failed = outcome.event == Event::kRefused || outcome.event == Event::kInterrupted;
  const Escrow& escrow = context.escrow;
  if (!failed || !escrow.source_pidfd.valid()) return outcome;
  // A dying process closes its connection a little before its pidfd tells.
  const bool closed = escrow.source_link != nullptr && escrow.source_link->closed();
  const std::chrono::milliseconds wait =
      closed ? context.dependencies.timeouts.release : std::chrono::milliseconds(0);
  if (!AwaitExit(escrow.source_pidfd.borrow(), wait)) return outcome;
  outcome.event = Event::kSourceLost;
  outcome.cause = {"SOURCE_DIED", absl::StrCat("the source VMM exited before the handover (",
                                               outcome.cause.message, ")")};
  return outcome;
}

}  // namespace rehome
