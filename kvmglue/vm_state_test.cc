// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm_state.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

VmState Good() {
  VmState state = {};
  state.magic = kVmStateMagic;
  state.version = kVmStateVersion;
  state.has_irqchip = 1;
  for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; ++i) state.chips[i].chip_id = i;
  return state;
}

TEST(VmState, AcceptsBothKinds) {
  VmState state = Good();
  EXPECT_TRUE(state.Validate().ok()) << state.Validate();
  state.has_irqchip = 0;
  for (kvm_irqchip& chip : state.chips) chip.chip_id = 0;  // not looked at
  EXPECT_TRUE(state.Validate().ok()) << state.Validate();
}

TEST(VmState, RefusesEveryFieldOutOfItsBounds) {
  const std::function<void(VmState&)> changes[] = {
      [](VmState& s) { s.magic ^= 1; },           [](VmState& s) { ++s.version; },
      [](VmState& s) { s.has_irqchip = 2; },      [](VmState& s) { s.chips[0].chip_id = 1; },
      [](VmState& s) { s.chips[2].chip_id = 3; },
  };
  for (const auto& change : changes) {
    VmState state = Good();
    change(state);
    const absl::Status status = state.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), "VM_STATE_INVALID");
  }
}

TEST(CopyVmState, CopiesAndRefusesEveryTruncation) {
  VmState state = Good();
  state.clock_read_ns = 77;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(&state, 1));
  VmState copy;
  ASSERT_TRUE(CopyVmState(bytes, copy).ok());
  EXPECT_EQ(copy.clock_read_ns, 77u);
  for (size_t length = 0; length < sizeof(VmState); ++length) {
    const std::vector<std::byte> truncated(bytes.begin(), bytes.begin() + length);
    ASSERT_EQ(ReasonOf(CopyVmState(truncated, copy)), "VM_STATE_INVALID") << length;
  }
}

TEST(CopyVmState, ValidatesTheCopy) {
  VmState state = Good();
  state.version = 0;
  VmState copy;
  EXPECT_EQ(ReasonOf(CopyVmState(std::as_bytes(std::span(&state, 1)), copy)), "VM_STATE_INVALID");
}

}  // namespace
}  // namespace rehome
