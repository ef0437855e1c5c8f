// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/pre_fault.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

// A vCPU has no such request at all: EINVAL (arch/x86/kvm/x86.c, kvm_arch_vcpu_ioctl()), which it
// also says of a stretch that is no whole pages. EOPNOTSUPP: a kind of VM without it, or shadow
// paging (arch/x86/kvm/mmu/mmu.c, kvm_arch_vcpu_pre_fault_memory()).
bool IsUnsupported(int error) { return error == EOPNOTSUPP || error == EINVAL || error == ENOTTY; }

}  // namespace

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
    } else if (IsUnsupported(result.error)) {
      return MakeStatus(absl::StatusCode::kUnimplemented, "PRE_FAULT_UNSUPPORTED",
                        absl::StrCat("KVM_PRE_FAULT_MEMORY: ", strerror(result.error)));
    } else if (result.error != EINTR && result.error != EAGAIN) {
      return OsError("KVM_PRE_FAULT_MEMORY", absl::StrCat("at 0x", absl::Hex(range.gpa)),
                     result.error);
    }
  }
  return done;
}

}  // namespace rehome
