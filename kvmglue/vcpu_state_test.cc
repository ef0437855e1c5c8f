// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vcpu_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

std::unique_ptr<VcpuState> Good() {
  auto state = std::make_unique<VcpuState>();
  state->magic = kVcpuStateMagic;
  state->version = kVcpuStateVersion;
  state->blocks = kBlocksRequired | kBlockLapic | kBlockTscOffset;
  state->xsave_bytes = sizeof(kvm_xsave);
  state->used_bytes = VcpuStateBytes(sizeof(kvm_xsave));
  state->msrs.count = 40;
  state->xcrs.nr_xcrs = 1;
  return state;
}

std::unique_ptr<VcpuState> GoodProtected() {
  auto state = std::make_unique<VcpuState>();
  state->magic = kVcpuStateMagic;
  state->version = kVcpuStateVersion;
  state->registers_protected = 1;
  state->blocks = kBlockMpState;
  state->used_bytes = VcpuStateBytes(0);
  return state;
}

struct Case {
  const char* name;
  std::function<void(VcpuState&)> change;
};

const Case kAccepted[] = {
    {"as it is", [](VcpuState&) {}},
    {"SREGS2", [](VcpuState& s) { s.blocks |= kBlockSregs2; }},
    {"no irqchip", [](VcpuState& s) { s.blocks &= ~kBlockLapic; }},
    {"no TSC offset", [](VcpuState& s) { s.blocks &= ~kBlockTscOffset; }},
    {"most MSRs", [](VcpuState& s) { s.msrs.count = kMaxMsrs; }},
    {"no MSR", [](VcpuState& s) { s.msrs.count = 0; }},
    {"most XCRs", [](VcpuState& s) { s.xcrs.nr_xcrs = KVM_MAX_XCRS; }},
    {"largest XSAVE",
     [](VcpuState& s) {
       s.xsave_bytes = kMaxXsaveBytes;
       s.used_bytes = sizeof(VcpuState);
     }},
};

const Case kRefused[] = {
    {"magic", [](VcpuState& s) { s.magic ^= 1; }},
    {"version above", [](VcpuState& s) { ++s.version; }},
    {"version below", [](VcpuState& s) { --s.version; }},
    {"reserved", [](VcpuState& s) { s.reserved = 1; }},
    {"unknown block", [](VcpuState& s) { s.blocks |= kBlocksAll + 1; }},
    {"protected with registers", [](VcpuState& s) { s.registers_protected = 1; }},
    {"protected is no flag", [](VcpuState& s) { s.registers_protected = 2; }},
    {"too many MSRs", [](VcpuState& s) { s.msrs.count = kMaxMsrs + 1; }},
    {"far too many MSRs", [](VcpuState& s) { s.msrs.count = ~0u; }},
    {"too many XCRs", [](VcpuState& s) { s.xcrs.nr_xcrs = KVM_MAX_XCRS + 1; }},
    {"XSAVE too small",
     [](VcpuState& s) {
       s.xsave_bytes = sizeof(kvm_xsave) - 1;
       s.used_bytes = VcpuStateBytes(s.xsave_bytes);
     }},
    {"XSAVE too large",
     [](VcpuState& s) {
       s.xsave_bytes = kMaxXsaveBytes + 1;
       s.used_bytes = VcpuStateBytes(s.xsave_bytes);
     }},
    {"length wraps",
     [](VcpuState& s) {
       s.xsave_bytes = ~0u;
       s.used_bytes = VcpuStateBytes(s.xsave_bytes);
     }},
    {"used_bytes", [](VcpuState& s) { s.used_bytes += 1; }},
};

TEST(VcpuState, AcceptsWhatCanBeRestored) {
  for (const Case& accepted : kAccepted) {
    const std::unique_ptr<VcpuState> state = Good();
    accepted.change(*state);
    EXPECT_TRUE(state->Validate().ok()) << accepted.name << ": " << state->Validate();
  }
}

TEST(VcpuState, RefusesEveryNumberOutOfItsBounds) {
  for (const Case& refused : kRefused) {
    const std::unique_ptr<VcpuState> state = Good();
    refused.change(*state);
    const absl::Status status = state->Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refused.name;
    EXPECT_EQ(ReasonOf(status), "VCPU_STATE_INVALID") << refused.name;
  }
}

TEST(VcpuState, RefusesAnUnprotectedVcpuWithoutARequiredBlock) {
  for (uint32_t block = 1; block <= kBlocksAll; block <<= 1) {
    const std::unique_ptr<VcpuState> state = Good();
    state->blocks &= ~block;
    const bool required = (kBlocksRequired & block) != 0;
    EXPECT_EQ(state->Validate().ok(), !required) << std::hex << block;
  }
}

TEST(VcpuState, AProtectedVcpuHasNoRegistersAndMayHaveTheRest) {
  for (uint32_t block = 1; block <= kBlocksAll; block <<= 1) {
    const std::unique_ptr<VcpuState> state = GoodProtected();
    state->blocks |= block;
    const bool is_protected = (kBlocksProtected & block) != 0;
    EXPECT_EQ(state->Validate().ok(), !is_protected) << std::hex << block;
  }
  const std::unique_ptr<VcpuState> state = GoodProtected();
  state->blocks = kBlockLapic;
  EXPECT_FALSE(state->Validate().ok()) << "no mp_state";
}

TEST(CopyVcpuState, CopiesWhatIsUsedAndNoMore) {
  const std::unique_ptr<VcpuState> state = Good();
  std::memset(state->xsave, 0xaa, sizeof(state->xsave));
  state->regs.rip = 0x1234;
  // Exactly as long as the state says: a read beyond would be one that a sanitizer sees.
  const auto* first = reinterpret_cast<const std::byte*>(state.get());
  const std::vector<std::byte> bytes(first, first + state->used_bytes);
  auto copy = std::make_unique<VcpuState>();
  ASSERT_TRUE(CopyVcpuState(bytes, *copy).ok());
  EXPECT_EQ(copy->regs.rip, 0x1234u);
  EXPECT_EQ(copy->xsave[state->xsave_bytes - 1], 0xaa);
  EXPECT_EQ(copy->xsave[state->xsave_bytes], 0);
}

TEST(CopyVcpuState, RefusesEveryTruncation) {
  const std::unique_ptr<VcpuState> state = Good();
  const auto* first = reinterpret_cast<const std::byte*>(state.get());
  auto copy = std::make_unique<VcpuState>();
  for (size_t length = 0; length < state->used_bytes; ++length) {
    const std::vector<std::byte> bytes(first, first + length);
    ASSERT_EQ(ReasonOf(CopyVcpuState(bytes, *copy)), "VCPU_STATE_INVALID") << length;
  }
}

TEST(CopyVcpuState, RefusesLengthsThatTheBytesDoNotHave) {
  const std::unique_ptr<VcpuState> state = Good();
  state->xsave_bytes = kMaxXsaveBytes;
  state->used_bytes = VcpuStateBytes(kMaxXsaveBytes);
  const auto* first = reinterpret_cast<const std::byte*>(state.get());
  const std::vector<std::byte> bytes(first, first + VcpuStateBytes(sizeof(kvm_xsave)));
  auto copy = std::make_unique<VcpuState>();
  EXPECT_EQ(ReasonOf(CopyVcpuState(bytes, *copy)), "VCPU_STATE_INVALID");
}

// Whoever changes the boot registers after a save need not know which of the two it made.
TEST(VcpuState, BothFormsOfSegmentRegistersAreTheSameBytes) {
  const std::unique_ptr<VcpuState> state = Good();
  state->sregs.cs.selector = 0x33;
  state->sregs.cr3 = 0x2000;
  state->sregs.apic_base = 0xfee00900;
  EXPECT_EQ(state->sregs2.cs.selector, 0x33);
  EXPECT_EQ(state->sregs2.cr3, 0x2000u);
  EXPECT_EQ(state->sregs2.apic_base, 0xfee00900u);
}

}  // namespace
}  // namespace rehome
