// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm_state.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// A change of any of these changes the format: raise kVmStateVersion.
static_assert(offsetof(VmState, chips) == 16);
static_assert(sizeof(kvm_irqchip) == 520);
static_assert(offsetof(VmState, pit) == 1576);
static_assert(sizeof(kvm_pit_state2) == 112);
static_assert(offsetof(VmState, clock) == 1688);
static_assert(offsetof(VmState, clock_read_ns) == 1736);
static_assert(sizeof(VmState) == 1744);

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "VM_STATE_INVALID", what);
}

}  // namespace

absl::Status VmState::Validate() const {
  if (magic != kVmStateMagic) return Invalid("not a VM state");
  if (version != kVmStateVersion) return Invalid(absl::StrCat("version ", version));
  if (has_irqchip > 1) return Invalid("has_irqchip is neither 0 nor 1");
  for (uint32_t i = 0; has_irqchip == 1 && i < KVM_NR_IRQCHIPS; ++i) {
    // KVM would write chip_id's state, whatever place it stands in.
    if (chips[i].chip_id != i) return Invalid(absl::StrCat("chip ", i, " says ", chips[i].chip_id));
  }
  return absl::OkStatus();
}

absl::Status CopyVmState(std::span<const std::byte> bytes, VmState& state) {
  if (bytes.size() < sizeof(VmState)) {
    return Invalid(absl::StrCat(bytes.size(), " bytes of ", sizeof(VmState)));
  }
  std::memcpy(&state, bytes.data(), sizeof(VmState));
  return state.Validate();
}

}  // namespace rehome
