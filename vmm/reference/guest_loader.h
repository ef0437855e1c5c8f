// SPDX-License-Identifier: Apache-2.0
//
// Puts the built-in guest into a new VM: the payload and its tables into memory, and every vCPU at
// its first instruction, in 64-bit user mode with access to the ports.
#ifndef REHOME_VMM_REFERENCE_GUEST_LOADER_H_
#define REHOME_VMM_REFERENCE_GUEST_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/vcpu.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest_ram.h"
#include "vmm/reference/options.h"

namespace rehome {

// What the guest is told: options, the shape of its RAM, the host's TSC frequency. A working set
// that does not fit is made smaller.
rehome_guest_boot_info MakeBootInfo(const GuestOptions& options, const GuestRam& ram);

// Writes payload, descriptor tables, task state segments, page tables and, last, the boot
// information (whose code fields it fills in) into the first REHOME_GUEST_RESERVED bytes of RAM.
// REQUIRES: low_ram has that size and is zero.
void LoadGuest(rehome_guest_boot_info& boot, std::span<std::byte> low_ram);

// Paging as the built-in guest has it, in 64-bit user mode: what shadow pages that are made for it
// depend on. `vcpu`: whose task state segment.
void SetGuestSregs(uint32_t vcpu, kvm_sregs& sregs);

// Sets vCPU `vcpu` to start the payload; kvmclock and timer as `boot` says. Errors of SaveState()
// and RestoreState().
absl::Status StartGuestVcpu(const rehome_guest_boot_info& boot, Vcpu& vcpu);

// The same for the simulated kernel's guest (sim_cpu.h), which finds its first instruction by
// itself.
absl::Status StartSimVcpu(Vcpu& vcpu);

// Whether a vCPU with that state can have a kvmclock: KVM knows its MSR. boot.kvmclock must not be
// set otherwise.
bool HasKvmclock(const VcpuState& state);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_LOADER_H_
