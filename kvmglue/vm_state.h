// SPDX-License-Identifier: Apache-2.0
//
// The state of the in-kernel devices of a VM as bytes; see vcpu_state.h for the vCPUs.
#ifndef REHOME_KVMGLUE_VM_STATE_H_
#define REHOME_KVMGLUE_VM_STATE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/status/status.h"
#include "kvmglue/kvm_abi.h"

namespace rehome {

inline constexpr uint64_t kVmStateMagic = 0x3130304d56485200ull;  // "\0RHVM001"
// Changes with any change of the layout below; there is no reading of other versions.
inline constexpr uint32_t kVmStateVersion = 1;

struct VmState {
  uint64_t magic;
  uint32_t version;
  uint32_t has_irqchip;                // 0 or 1: chips and pit are used
  kvm_irqchip chips[KVM_NR_IRQCHIPS];  // PIC master, PIC slave, IOAPIC
  kvm_pit_state2 pit;
  kvm_clock_data clock;
  // CLOCK_BOOTTIME when `clock` was read: by how much to advance it where the kernel does not say
  // KVM_CLOCK_REALTIME. The guest's clock then runs through the pause, on one host.
  uint64_t clock_read_ns;

  // INVALID_ARGUMENT / VM_STATE_INVALID naming the field.
  absl::Status Validate() const;
};

static_assert(std::is_trivial_v<VmState> && std::is_standard_layout_v<VmState>);

// Copies a state out of memory that somebody else may still be writing to, then validates the copy.
absl::Status CopyVmState(std::span<const std::byte> bytes, VmState& state);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VM_STATE_H_
