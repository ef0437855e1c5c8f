// SPDX-License-Identifier: Apache-2.0
//
// Puts an image into private guest memory of KVM_X86_SW_PROTECTED_VM, for which KVM has no ioctl
// (KVM_TDX_INIT_MEM_REGION and KVM_SEV_SNP_LAUNCH_UPDATE do it for other types): the guest does it
// itself. A memslot that is there for this moment only holds the image in shared memory and a few
// instructions that copy it.
#ifndef REHOME_VMM_REFERENCE_PRIVATE_LOADER_H_
#define REHOME_VMM_REFERENCE_PRIVATE_LOADER_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm.h"

namespace rehome {

// Copies `image` to gpa 0, where the VM has private memory (Vm::SetPrivate()). Runs `vcpu`, and
// leaves it with no access pending and registers of no use. `slot` is a number that no memslot has
// and that is free again afterwards. REQUIRES: image.size() is a multiple of 4096, at most 1 GiB;
// no memslot reaches into the hole of guest_abi.h.
//
// INTERNAL / GUEST_UNLOADABLE: the vCPU did anything but copy; errors of SetMemslot(), SaveState()
// and Run() besides. The VM is good for nothing then.
absl::Status LoadPrivateMemory(Vm& vm, Vcpu& vcpu, uint32_t slot, std::span<const std::byte> image);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_PRIVATE_LOADER_H_
