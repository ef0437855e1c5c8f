// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/pre_fault.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/kvm_abi.h"

namespace rehome {

using std::chrono::steady_clock;

absl::StatusOr<uint64_t> PreFault(KvmSyscalls& kernel, BorrowedFd vcpu, uint64_t gpa,
                                  uint64_t bytes, steady_clock::time_point end) {
  uint64_t done = 0;
  while (done < bytes && steady_clock::now() < end) {
    kvm_pre_fault_memory range = {};
    range.gpa = gpa + done;
    range.size = std::min(bytes - done, kPreFaultStrideBytes);
    const SysResult result = kernel.Ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
    // It says how far it has come, and fails only if that is nowhere
    // (virt/kvm/kvm_main.c, kvm_vcpu_pre_fault_memory()).
    if (result.ok()) {
      done = range.gpa - gpa;
    } else if (result.error != EINTR && result.error != EAGAIN) {
      return ErrnoStatus(KernelCall::kPreFault, result.error,
                         absl::StrCat("gpa 0x", absl::Hex(range.gpa)));
    }
  }
  return done;
}

}  // namespace rehome
