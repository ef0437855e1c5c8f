// SPDX-License-Identifier: Apache-2.0
#include "daemon/target_build.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/state_formats.h"
#include "daemon/strategy.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

absl::Status Mismatch(std::string_view reason, std::string_view message) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, message);
}

// From here on `source` is in one format, for everybody who reads its description: the target, a
// daemon that finds it in the store, and a rescue, whose target must read what has been written.
absl::Status FixStateFormat(const Migration& record, const VmmHello& target,
                            VmDescription& source) {
  const StateFormats reads[] = {ReadsOf(target)};
  const absl::StatusOr<uint32_t> format =
      AgreeOnStateFormat(record.source_vmm, WritesOf(source), "VMM " + record.target_vmm, reads);
  if (!format.ok()) return format.status();
  source.state_format = *format;
  source.state_format_oldest = 0;
  return absl::OkStatus();
}

absl::Status CheckFeatures(const VmmHello& target, Strategy strategy) {
  const uint32_t missing = RequiredFeatures(strategy) & ~target.features;
  if (missing == 0) return absl::OkStatus();
  return Mismatch("AGENT_LACKS_FEATURE",
                  absl::StrCat("the target VMM's agent lacks feature bits ", absl::Hex(missing)));
}

// The target's refusal of PREPARE. A device that it does not have is a reason of its own: what is
// to be done about it is known.
absl::Status WhyNotPrepared(const absl::Status& refusal, const Migration& record) {
  const std::string text(refusal.message());
  constexpr std::string_view kUnknown = REHOME_TEXT_DEVICE_UNKNOWN;
  if (ReasonOf(refusal) != reason::kAgentRefusedUnsupported || !text.starts_with(kUnknown)) {
    return Annotate(refusal, "the target's PREPARE");
  }
  return Mismatch(reason::kDeviceUnknown,
                  absl::StrCat("the target VMM ", record.target_vmm, " lacks a device of VM ",
                               record.request.vm_id, ": ", text.substr(kUnknown.size())));
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
  return HandoverBlock::Create({
      .migration_id = record.id,
      .state_capacity = context.escrow.source->state_capacity,
      .claim_timeout = ClaimTimeout(context, record),
      .resolve_timeout = context.dependencies.timeouts.resolve,
      .strategy = record.strategy,
      .fence_policy = record.fence_policy,
  });
}

}  // namespace

absl::Status StartTarget(EffectContext& context, Migration& record, Interrupt* interrupt) {
  const EffectDependencies& dependencies = context.dependencies;
  Escrow& escrow = context.escrow;
  absl::StatusOr<LaunchedVmm> launched =
      dependencies.launcher->Launch(record.request.target_profile, record.id);
  if (!launched.ok()) return launched.status();
  record.target = launched->process;
  absl::StatusOr<UniqueFd> pidfd = Duplicate(launched->pidfd.borrow());
  // Whatever happens next, somebody must be able to kill what was just started.
  escrow.target_pidfd = pidfd.ok() ? *std::move(pidfd) : std::move(launched->pidfd);
  escrow.target_link = nullptr;
  if (!pidfd.ok()) return pidfd.status();

  absl::StatusOr<std::shared_ptr<VmmLink>> link =
      dependencies.adopt_target(*launched, dependencies.timeouts.launch, interrupt);
  if (!link.ok()) return Annotate(link.status(), "waiting for the target VMM");
  escrow.target_link = *std::move(link);
  const VmmHello& hello = escrow.target_link->hello();
  record.target_vmm = absl::StrCat(hello.vmm_name, " ", hello.vmm_version);
  if (absl::Status format = FixStateFormat(record, hello, *escrow.source); !format.ok()) {
    return format;
  }
  return CheckFeatures(hello, record.strategy);
}

absl::StatusOr<BuiltTarget> BuildInTarget(EffectContext& context, const Migration& record,
                                          Interrupt* interrupt) {
  const Escrow& escrow = context.escrow;
  absl::StatusOr<std::unique_ptr<HandoverBlock>> block = CreateBlock(context, record);
  if (!block.ok()) return block.status();
  absl::StatusOr<VmDescription> target =
      escrow.target_link->Prepare({.migration_id = record.id,
                                   .strategy = record.strategy,
                                   .fence_policy = record.fence_policy,
                                   .source = &*escrow.source,
                                   .block = (*block)->fd()},
                                  context.dependencies.timeouts.prepare, interrupt);
  if (!target.ok()) return WhyNotPrepared(target.status(), record);
  absl::Status same =
      CompareSides(*escrow.source, *target, record.strategy, escrow.target_pidfd.borrow());
  if (!same.ok()) return same;
  return BuiltTarget{*std::move(block), *std::move(target)};
}

}  // namespace rehome
