// SPDX-License-Identifier: Apache-2.0
#include "daemon/strategy.h"

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

absl::Status Refuse(std::string_view reason, std::string_view message) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, message);
}

std::string WhyNot(const HostCapabilities& host, const std::string& capability) {
  const Capability* found = host.Find(capability);
  return found == nullptr ? "not probed" : found->detail;
}

absl::Status CheckMove(VmType vm_type, const HostCapabilities& host) {
  if (host.CanMove(vm_type)) return absl::OkStatus();
  std::string capability = absl::StrCat("move_enc_context_", std::string(VmTypeName(vm_type)));
  for (char& c : capability) c = c == '-' ? '_' : c;
  return Refuse("MOVE_UNSUPPORTED",
                absl::StrCat("this kernel cannot move the context of a ",
                             std::string(VmTypeName(vm_type)), " VM: ", WhyNot(host, capability)));
}

absl::StatusOr<Strategy> ChooseLinkMove(VmType vm_type, const HostCapabilities& host,
                                        const MemoryKinds& memory) {
  if (!host.CanLink()) {
    return Refuse("LINK_UNSUPPORTED", absl::StrCat("this kernel has no KVM_LINK_GUEST_MEMFD: ",
                                                   WhyNot(host, "guest_memfd_link")));
  }
  if (absl::Status status = CheckMove(vm_type, host); !status.ok()) return status;
  if (!memory.all_guest_memfd) {
    return Refuse("MEMORY_NOT_SHAREABLE", "a memslot is not backed by a guest_memfd");
  }
  return Strategy::kLinkMove;
}

absl::StatusOr<Strategy> ChooseMapMove(VmType vm_type, const HostCapabilities& host,
                                       const MemoryKinds& memory) {
  if (absl::Status status = CheckMove(vm_type, host); !status.ok()) return status;
  if (!memory.all_mappable) {
    return Refuse("MEMORY_NOT_SHAREABLE", "a memory file cannot be mapped by another process");
  }
  return Strategy::kMapMove;
}

}  // namespace

absl::StatusOr<Strategy> ChooseStrategy(VmType vm_type, const HostCapabilities& host,
                                        const MemoryKinds& memory) {
  switch (vm_type) {
    case VmType::kSwProtected:
    case VmType::kTdx:
      return ChooseLinkMove(vm_type, host, memory);
    case VmType::kSev:
    case VmType::kSevEs:
      return ChooseMapMove(vm_type, host, memory);
    case VmType::kSnp:
      return Refuse("SNP_REFUSED",
                    "SEV-SNP guests are not moved: kernels without the fix of June 2026 accept the "
                    "MOVE and lose guest state");
    case VmType::kDefault:
      if (host.CanLink() && memory.all_guest_memfd) return Strategy::kLink;
      if (memory.all_mappable) return Strategy::kMap;
      return Refuse(
          "MEMORY_NOT_SHAREABLE",
          "guest memory can be neither linked (no KVM_LINK_GUEST_MEMFD or no guest_memfd) "
          "nor mapped (guest_memfd without GUEST_MEMFD_FLAG_MMAP)");
  }
  return Refuse("VM_TYPE_UNSUPPORTED", "unknown VM type");
}

bool HasMove(Strategy strategy) {
  return strategy == Strategy::kLinkMove || strategy == Strategy::kMapMove;
}

bool HasLink(Strategy strategy) {
  return strategy == Strategy::kLinkMove || strategy == Strategy::kLink;
}

uint32_t RequiredFeatures(Strategy strategy) {
  uint32_t features = HasLink(strategy) ? REHOME_FEATURE_LINK : REHOME_FEATURE_MAP;
  if (HasMove(strategy)) features |= REHOME_FEATURE_MOVE;
  return features;
}

absl::StatusOr<FencePolicy> ResolveFencePolicy(Strategy strategy, FencePolicy requested) {
  switch (requested) {
    case FencePolicy::kUnspecified:
      return HasMove(strategy) ? FencePolicy::kKernel : FencePolicy::kBeforeResume;
    case FencePolicy::kKernel:
      if (HasMove(strategy)) return FencePolicy::kKernel;
      return MakeStatus(absl::StatusCode::kInvalidArgument, "FENCE_POLICY_IMPOSSIBLE",
                        absl::StrCat("strategy ", StrategyName(strategy),
                                     " has no MOVE, so the kernel cannot fence the source"));
    case FencePolicy::kBeforeResume:
    case FencePolicy::kAfterResume:
      return requested;
  }
  return MakeStatus(absl::StatusCode::kInvalidArgument, "FENCE_POLICY_IMPOSSIBLE",
                    "unknown fence policy");
}

}  // namespace rehome
