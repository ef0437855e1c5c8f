// SPDX-License-Identifier: Apache-2.0
//
// The state of one vCPU as bytes: written by Vcpu::SaveState() in the source VMM, carried in the
// handover block, read by Vcpu::RestoreState() in the target.
#ifndef REHOME_KVMGLUE_VCPU_STATE_H_
#define REHOME_KVMGLUE_VCPU_STATE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/status/status.h"
#include "kvmglue/kvm_abi.h"

namespace rehome {

inline constexpr uint64_t kVcpuStateMagic = 0x3155504356485200ull;  // "\0RHVCPU1"
// Changes with any change of the layout below; there is no reading of other versions.
inline constexpr uint32_t kVcpuStateVersion = 1;

// KVM takes fewer than MAX_IO_MSRS = 256 in one call (arch/x86/kvm/x86.c, msr_io()).
inline constexpr uint32_t kMaxMsrs = 255;
// The largest known is 11 008 bytes (AMX).
inline constexpr uint32_t kMaxXsaveBytes = 16384;

// Same layout as struct kvm_msrs, which ends in a flexible array.
struct VcpuMsrs {
  uint32_t count;
  uint32_t pad;
  kvm_msr_entry entries[kMaxMsrs];
};

// Which members of a VcpuState hold something. An unprotected vCPU has them all, but for kLapic
// without in-kernel irqchip, kTscOffset on kernels without it, and kSregs2 (see there).
enum VcpuStateBlock : uint32_t {
  kBlockMpState = 1u << 0,
  kBlockRegs = 1u << 1,
  kBlockSregs = 1u << 2,
  // The tail of `sregs` is that of struct kvm_sregs2: PDPTRs instead of an interrupt bitmap. Always
  // together with kBlockSregs.
  kBlockSregs2 = 1u << 3,
  kBlockXsave = 1u << 4,
  kBlockXcrs = 1u << 5,
  kBlockDebugregs = 1u << 6,
  kBlockMsrs = 1u << 7,
  kBlockLapic = 1u << 8,
  kBlockEvents = 1u << 9,
  kBlockTscOffset = 1u << 10,
  kBlocksAll = (1u << 11) - 1,
  // What no unprotected vCPU can be restored without.
  kBlocksRequired = kBlockMpState | kBlockRegs | kBlockSregs | kBlockXsave | kBlockXcrs |
                    kBlockDebugregs | kBlockMsrs | kBlockEvents,
  // What KVM refuses for SEV-ES and TDX: it lies encrypted in the VMSA or TDVPS, which MOVE
  // carries.
  kBlocksProtected =
      kBlockRegs | kBlockSregs | kBlockSregs2 | kBlockXsave | kBlockXcrs | kBlockDebugregs,
};

struct VcpuState {
  uint64_t magic;
  uint32_t version;
  uint32_t used_bytes;  // up to and with the used part of `xsave`
  uint32_t vcpu_index;
  uint32_t blocks;               // VcpuStateBlock
  uint32_t registers_protected;  // 0 or 1: SEV-ES, TDX; none of kBlocksProtected is there
  uint32_t xsave_bytes;
  uint64_t tsc_offset;  // guest TSC = host TSC + this; both hosts are one
  kvm_mp_state mp_state;
  uint32_t reserved;
  kvm_regs regs;
  union {  // the same but for their last members: changing sregs.cs changes sregs2.cs
    kvm_sregs sregs;
    kvm_sregs2 sregs2;
  };
  kvm_xcrs xcrs;
  kvm_debugregs debugregs;
  kvm_vcpu_events events;
  kvm_lapic_state lapic;
  VcpuMsrs msrs;
  // Last, because its used length differs: 4096 bytes unless the guest has dynamic features.
  uint8_t xsave[kMaxXsaveBytes];

  bool Has(uint32_t block) const { return (blocks & block) == block; }

  // Whether RestoreState() may read this: magic, version, every count and length within its bounds,
  // required blocks there, nothing unknown. It does not judge register contents: KVM does, and its
  // interface has to withstand any. INVALID_ARGUMENT / VCPU_STATE_INVALID naming the field.
  absl::Status Validate() const;
};

static_assert(std::is_trivial_v<VcpuState> && std::is_standard_layout_v<VcpuState>);

// Bytes of a VcpuState whose XSAVE area has `xsave_bytes`; sizeof(VcpuState) is the most.
constexpr size_t VcpuStateBytes(uint32_t xsave_bytes) {
  return offsetof(VcpuState, xsave) + xsave_bytes;
}

// Copies a state out of memory that somebody else may still be writing to, then validates the copy.
// `bytes` may be longer than the state. On an error `state` holds something, but nothing to
// restore.
absl::Status CopyVcpuState(std::span<const std::byte> bytes, VcpuState& state);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VCPU_STATE_H_
