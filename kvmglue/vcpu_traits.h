// SPDX-License-Identifier: Apache-2.0
//
// What the vCPUs of one VM have in common. Found when the VM is created and when its first vCPU is
// prepared, so that nothing has to be looked up in the blackout.
#ifndef REHOME_KVMGLUE_VCPU_TRAITS_H_
#define REHOME_KVMGLUE_VCPU_TRAITS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/vcpu_state.h"

namespace rehome {

struct VcpuTraits {
  KvmSyscalls* kernel = nullptr;
  size_t run_bytes = 0;  // KVM_GET_VCPU_MMAP_SIZE
  uint32_t xsave_bytes = sizeof(kvm_xsave);
  bool has_sregs2 = false;
  bool registers_protected = false;  // SEV-ES, TDX
  // The one switch between the two ways of moving general and segment registers and events: through
  // kvm_run (KVM_CAP_SYNC_REGS) or by an ioctl each. See vcpu_save_restore.cc for what it saves.
  bool sync_regs = false;
  // KVM_VCPUEVENT_VALID_* that KVM_SET_VCPU_EVENTS of this VM takes.
  uint32_t event_flags = 0;
  std::vector<uint32_t> msr_candidates;  // KVM_GET_MSR_INDEX_LIST

  // Set by CreateIrqchip(), which KVM allows only before the first vCPU.
  std::atomic<bool> has_irqchip{false};

  // The candidates that can be read and written, with indices filled in: KVM_GET_MSRS takes a copy.
  // Found once, on the first vCPU that has its CPUID; guarded by `mutex` until `msrs_known`.
  std::mutex mutex;
  bool msrs_known = false;
  VcpuMsrs msrs = {};
};

// Fills traits.msrs by getting and setting each candidate on `vcpu`, unless that was done before.
// With `has_tsc_offset`, IA32_TSC is left out: the offset carries it, and writing the register
// would set the TSC back by the time since it was read. FAILED_PRECONDITION / TOO_MANY_MSRS.
absl::Status FindMsrs(VcpuTraits& traits, BorrowedFd vcpu, bool has_tsc_offset);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VCPU_TRAITS_H_
