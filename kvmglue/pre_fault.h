// SPDX-License-Identifier: Apache-2.0
//
// KVM_PRE_FAULT_MEMORY (Linux 6.11, Documentation/virt/kvm/api.rst, 4.143): KVM makes its page
// tables for a stretch of guest memory as if the guest had read it. Under nested paging only, whose
// tables belong to the VM and not to what the guest's own say, so it works for any guest.
#ifndef REHOME_KVMGLUE_PRE_FAULT_H_
#define REHOME_KVMGLUE_PRE_FAULT_H_

#include <chrono>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"

namespace rehome {

// One call is for so much at most, because the time is looked at between two: 4 MiB take 0.5 ms
// where a page takes as long as a fault.
inline constexpr uint64_t kPreFaultStrideBytes = 4 << 20;

// For `bytes` from `gpa` on, both multiples of the page size, inside slots of the VM of `vcpu`,
// which must not be running. What is not in its file would be allocated. Until `end`, which is
// looked at every kPreFaultStrideBytes. Returns the bytes done. UNIMPLEMENTED /
// PRE_FAULT_UNSUPPORTED: this kernel has no such call, not for this kind of VM, or the VM runs with
// shadow paging; FAILED_PRECONDITION / VM_DEAD; INTERNAL / KVM_FAILED. Nothing that the guest can
// see changes in any case.
absl::StatusOr<uint64_t> PreFault(KvmSyscalls& kernel, BorrowedFd vcpu, uint64_t gpa,
                                  uint64_t bytes, std::chrono::steady_clock::time_point end);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_PRE_FAULT_H_
