// SPDX-License-Identifier: Apache-2.0
//
// One vCPU inside the shared VM object. All types here are plain memory: zero bytes are valid, and
// nothing points anywhere.
#ifndef REHOME_KVMGLUE_SIM_VCPU_OBJECT_H_
#define REHOME_KVMGLUE_SIM_VCPU_OBJECT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/double_buffered.h"
#include "kvmglue/sim/robust_mutex.h"

namespace rehome::sim {

inline constexpr uint32_t kMaxVcpus = 64;
// KVM_MAX_CPUID_ENTRIES of arch/x86/include/asm/kvm_host.h.
inline constexpr uint32_t kMaxCpuidEntries = 256;
// What KVM_CAP_XSAVE2 says: no dynamically enabled features.
inline constexpr size_t kXsaveBytes = 4096;

// KVM_GET_MSR_INDEX_LIST. The ones of arch/x86/kvm/x86.c that a 64-bit Linux guest sets.
inline constexpr std::array<uint32_t, 24> kMsrIndices = {
    0x00000010,                          // IA32_TIME_STAMP_COUNTER: the TSC offset in another shape
    0x0000003b,                          // IA32_TSC_ADJUST
    0x00000048,                          // IA32_SPEC_CTRL
    0x00000174, 0x00000175, 0x00000176,  // IA32_SYSENTER_*
    0x000001a0,                          // IA32_MISC_ENABLE
    0x000001d9,                          // IA32_DEBUGCTL
    0x00000277,                          // IA32_PAT
    0x000002ff,                          // IA32_MTRR_DEF_TYPE
    0x000006e0,                          // IA32_TSC_DEADLINE
    0x00000da0,                          // IA32_XSS
    0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05,  // KVM's own
    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,  // STAR, LSTAR, CSTAR, SYSCALL_MASK
    0xc0000102,                                      // KERNEL_GS_BASE
    0xc0000103,                                      // TSC_AUX
};

// Port I/O that left KVM_RUN and completes in the next one (complete_userspace_io of the kernel).
// Until then the registers are those before the instruction.
struct PendingIo {
  uint32_t active;
  uint32_t is_in;
  uint32_t width;  // bytes
  uint32_t padding;
  kvm_regs after;
};

struct VcpuRegisters {
  kvm_regs regs;
  kvm_sregs sregs;
  PendingIo io;
};

// Guest state beside the general registers, as far as it is encrypted with them for SEV-ES and TDX.
struct VcpuExtendedState {
  kvm_debugregs debugregs;
  kvm_xcrs xcrs;
  alignas(64) uint8_t xsave[kXsaveBytes];
};

// State that stays with KVM also for protected vCPUs, and that no MOVE carries.
struct VcpuControl {
  kvm_mp_state mp_state;
  kvm_vcpu_events events;
  kvm_lapic_state lapic;
  uint64_t msrs[kMsrIndices.size()];
  uint64_t pdptrs[4];  // KVM_SET_SREGS2
  uint64_t sregs2_flags;
  int64_t tsc_offset;
  uint32_t tsc_khz;
  uint32_t has_run;
  uint32_t cpuid_count;
  kvm_cpuid_entry2 cpuid[kMaxCpuidEntries];
};

struct VcpuObject {
  // Held by every vCPU ioctl, hence for the whole of KVM_RUN, and by MOVE.
  RobustMutex mutex;
  uint32_t
      id;  // what KVM_CREATE_VCPU was given; the place in VmObject::vcpus is the order of creation
  uint32_t state_protected;
  DoubleBuffered<VcpuRegisters> registers;
  VcpuExtendedState extended;
  VcpuControl control;
};

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VCPU_OBJECT_H_
