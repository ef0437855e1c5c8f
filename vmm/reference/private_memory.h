// SPDX-License-Identifier: Apache-2.0
//
// Into and out of private guest memory of KVM_X86_SW_PROTECTED_VM, for which KVM has no ioctl
// (KVM_TDX_INIT_MEM_REGION and KVM_SEV_SNP_LAUNCH_UPDATE do it for other types): the guest copies
// by itself. A memslot that is there for this moment only holds shared memory and the instructions
// of the copy.
#ifndef REHOME_VMM_REFERENCE_PRIVATE_MEMORY_H_
#define REHOME_VMM_REFERENCE_PRIVATE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm.h"

namespace rehome {

// Beyond this gpa the copy does not reach: its memslot has to end below the APICs.
inline constexpr uint64_t kPrivateCopyEnd = 512 << 20;

// Both copy from or to gpa 0, where the VM has private memory (Vm::SetPrivate()). They run `vcpu`
// and leave it with no access pending and with registers of no use, so they are for a guest that
// has not begun or that has ended. `slot` is a number that no memslot has; it is free again
// afterwards. REQUIRES: the size is a multiple of 4096, at most kPrivateCopyEnd; no vCPU runs; no
// memslot reaches into the hole of guest_abi.h.
//
// INTERNAL / PRIVATE_COPY_FAILED: the vCPU did anything but copy; errors of SetMemslot(),
// SaveState() and Run() besides. The VM is good for nothing then.
absl::Status CopyIntoPrivate(Vm& vm, Vcpu& vcpu, uint32_t slot, std::span<const std::byte> image);
absl::Status CopyOutOfPrivate(Vm& vm, Vcpu& vcpu, uint32_t slot, std::span<std::byte> out);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_PRIVATE_MEMORY_H_
