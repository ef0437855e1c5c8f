// SPDX-License-Identifier: Apache-2.0
//
// How a vCPU of the simulated kernel's guest (sim_cpu.h) learns what it is to do: from its first
// registers, because memory of protected VM types cannot be written from outside.
#ifndef REHOME_VMM_REFERENCE_SIM_BOOT_H_
#define REHOME_VMM_REFERENCE_SIM_BOOT_H_

#include <cstdint>

#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest/guest_abi.h"

namespace rehome {

inline void BootInfoToRegisters(const rehome_guest_boot_info& boot, uint32_t vcpu, kvm_regs& regs) {
  regs = {};
  regs.rip = REHOME_GUEST_CODE;
  regs.rflags = 2;  // the bit that is always 1
  regs.rdi = vcpu;
  regs.rsi = boot.seed;
  regs.rdx = boot.ram_bytes;
  regs.rcx = boot.vcpu_count;
  regs.r8 = boot.working_set_pages;
  regs.r9 = boot.heartbeat_tsc;
  regs.r10 = boot.step_tsc;
  regs.r11 = boot.tsc_khz;
  regs.rbp = boot.code_digest;
}

// Everything but the magic and the memory files.
inline void BootInfoFromRegisters(const kvm_regs& regs, rehome_guest_boot_info& boot) {
  boot.abi_version = REHOME_GUEST_ABI_VERSION;
  boot.seed = regs.rsi;
  boot.ram_bytes = regs.rdx;
  boot.vcpu_count = static_cast<uint32_t>(regs.rcx);
  boot.working_set_pages = regs.r8;
  boot.heartbeat_tsc = regs.r9;
  boot.step_tsc = regs.r10;
  boot.tsc_khz = regs.r11;
  boot.code_digest = regs.rbp;
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SIM_BOOT_H_
