// SPDX-License-Identifier: Apache-2.0
//
// Saving and restoring the devices of a VM: PIC, IOAPIC, PIT, then the clock.
//
// They are restored before the vCPUs: setting an IOAPIC may send what it has pending to the LAPICs
// (kvm_ioapic_inject_all()), and the LAPICs' own state, set afterwards, already accounts for it.
//
// The clock runs on during the pause, as it would on hardware. Where KVM_GET_CLOCK also read the
// real time (KVM_CLOCK_REALTIME in its flags; it does so only if the host's TSC is its clock
// source) KVM_SET_CLOCK adds what has passed. Elsewhere we do, by CLOCK_BOOTTIME, which kvmclock
// counts.
#include <time.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/vcpu_traits.h"
#include "kvmglue/vm.h"
#include "kvmglue/vm_state.h"

namespace rehome {
namespace {

constexpr const char* kChipNames[] = {"PIC master", "PIC slave", "IOAPIC"};

uint64_t BoottimeNs() {
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

absl::Status Vm::SaveState(VmState& state) const {
  state = {};
  state.magic = kVmStateMagic;
  state.version = kVmStateVersion;
  state.has_irqchip = traits_->has_irqchip ? 1 : 0;
  for (uint32_t i = 0; state.has_irqchip == 1 && i < KVM_NR_IRQCHIPS; ++i) {
    state.chips[i].chip_id = i;
    absl::Status status =
        Call(KernelCall::kGetVmState, KVM_GET_IRQCHIP, &state.chips[i], kChipNames[i]);
    if (!status.ok()) return status;
  }
  if (state.has_irqchip == 1) {
    absl::Status status = Call(KernelCall::kGetVmState, KVM_GET_PIT2, &state.pit, "PIT");
    if (!status.ok()) return status;
  }
  state.clock_read_ns = BoottimeNs();
  return Call(KernelCall::kGetVmState, KVM_GET_CLOCK, &state.clock, "clock");
}

absl::Status Vm::RestoreState(const VmState& state) {
  if (absl::Status status = state.Validate(); !status.ok()) return status;
  if ((state.has_irqchip == 1) != traits_->has_irqchip) {
    return ErrnoStatus(KernelCall::kSetVmState, ENXIO, "one side has an in-kernel irqchip");
  }
  for (uint32_t i = 0; state.has_irqchip == 1 && i < KVM_NR_IRQCHIPS; ++i) {
    absl::Status status =
        Call(KernelCall::kSetVmState, KVM_SET_IRQCHIP, IoctlInput(&state.chips[i]), kChipNames[i]);
    if (!status.ok()) return status;
  }
  if (state.has_irqchip == 1) {
    absl::Status status =
        Call(KernelCall::kSetVmState, KVM_SET_PIT2, IoctlInput(&state.pit), "PIT");
    if (!status.ok()) return status;
  }
  kvm_clock_data clock = {};
  clock.clock = state.clock.clock;
  if ((state.clock.flags & KVM_CLOCK_REALTIME) != 0) {
    clock.flags = KVM_CLOCK_REALTIME;
    clock.realtime = state.clock.realtime;
  } else if (const uint64_t now = BoottimeNs(); now > state.clock_read_ns) {
    clock.clock += now - state.clock_read_ns;
  }
  return Call(KernelCall::kSetVmState, KVM_SET_CLOCK, &clock, "clock");
}

}  // namespace rehome
