// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vcpu_state.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// A change of any of these changes the format: raise kVcpuStateVersion.
static_assert(offsetof(VcpuState, mp_state) == 40);
static_assert(offsetof(VcpuState, regs) == 48);
static_assert(offsetof(VcpuState, sregs) == 192);
static_assert(offsetof(VcpuState, xcrs) == 512);
static_assert(offsetof(VcpuState, debugregs) == 904);
static_assert(offsetof(VcpuState, events) == 1032);
static_assert(offsetof(VcpuState, lapic) == 1096);
static_assert(offsetof(VcpuState, msrs) == 2120);
static_assert(offsetof(VcpuState, xsave) == 6208);
static_assert(sizeof(VcpuState) == 22592);
static_assert(offsetof(VcpuMsrs, entries) == offsetof(kvm_msrs, entries));
// The members that the union's two views share.
static_assert(offsetof(kvm_sregs, cs) == offsetof(kvm_sregs2, cs));
static_assert(offsetof(kvm_sregs, cr0) == offsetof(kvm_sregs2, cr0));
static_assert(offsetof(kvm_sregs, apic_base) == offsetof(kvm_sregs2, apic_base));

constexpr uint32_t kMinXsaveBytes = sizeof(kvm_xsave);

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "VCPU_STATE_INVALID", what);
}

absl::Status ValidateBlocks(const VcpuState& state) {
  if ((state.blocks & ~kBlocksAll) != 0) {
    return Invalid(absl::StrFormat("unknown blocks %#x", state.blocks & ~kBlocksAll));
  }
  if (state.registers_protected > 1) return Invalid("registers_protected is neither 0 nor 1");
  if (state.registers_protected == 1) {
    if ((state.blocks & kBlocksProtected) != 0) {
      return Invalid("a vCPU with protected registers that has registers");
    }
    if (!state.Has(kBlockMpState)) return Invalid("no mp_state");
    return absl::OkStatus();
  }
  if (!state.Has(kBlocksRequired)) {
    return Invalid(absl::StrFormat("blocks %#x are missing", kBlocksRequired & ~state.blocks));
  }
  return absl::OkStatus();
}

absl::Status ValidateLengths(const VcpuState& state) {
  if (state.Has(kBlockXsave)) {
    if (state.xsave_bytes < kMinXsaveBytes || state.xsave_bytes > kMaxXsaveBytes) {
      return Invalid(absl::StrCat("XSAVE area of ", state.xsave_bytes, " bytes"));
    }
  } else if (state.xsave_bytes != 0) {
    return Invalid("bytes of an XSAVE area that is not there");
  }
  if (state.used_bytes != VcpuStateBytes(state.xsave_bytes)) {
    return Invalid(absl::StrCat("used_bytes is ", state.used_bytes));
  }
  if (state.Has(kBlockMsrs) && state.msrs.count > kMaxMsrs) {
    return Invalid(absl::StrCat(state.msrs.count, " MSRs, at most ", kMaxMsrs));
  }
  if (state.Has(kBlockXcrs) && state.xcrs.nr_xcrs > KVM_MAX_XCRS) {
    return Invalid(absl::StrCat(state.xcrs.nr_xcrs, " XCRs, at most ", KVM_MAX_XCRS));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status VcpuState::Validate() const {
  if (magic != kVcpuStateMagic) return Invalid("not a vCPU state");
  if (version != kVcpuStateVersion) return Invalid(absl::StrCat("version ", version));
  if (reserved != 0) return Invalid("reserved field is not 0");
  if (absl::Status status = ValidateBlocks(*this); !status.ok()) return status;
  return ValidateLengths(*this);
}

absl::Status CopyVcpuState(std::span<const std::byte> bytes, VcpuState& state) {
  constexpr size_t kFixedBytes = offsetof(VcpuState, xsave);
  if (bytes.size() < kFixedBytes) {
    return Invalid(absl::StrCat(bytes.size(), " bytes, at least ", kFixedBytes));
  }
  std::memcpy(&state, bytes.data(), kFixedBytes);
  // From here on only the copy is believed, lengths included.
  if (absl::Status status = state.Validate(); !status.ok()) return status;
  if (bytes.size() < state.used_bytes) {
    return Invalid(absl::StrCat(bytes.size(), " bytes of ", state.used_bytes));
  }
  std::memcpy(state.xsave, bytes.data() + kFixedBytes, state.xsave_bytes);
  return absl::OkStatus();
}

}  // namespace rehome
