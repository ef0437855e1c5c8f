// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_IOCTL_CALL_H_
#define REHOME_KVMGLUE_IOCTL_CALL_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/kvm_syscalls.h"

namespace rehome {

// A plain number where ioctl(2) takes a pointer.
inline void* IoctlNumber(uint64_t value) { return reinterpret_cast<void*>(value); }

// KVM takes pointers to what it only reads; its C signature does not say so.
inline void* IoctlInput(const void* input) { return const_cast<void*>(input); }

// One ioctl whose value does not matter. Allocates only for an error.
inline absl::Status CallIoctl(KvmSyscalls& kernel, BorrowedFd fd, KernelCall call,
                              unsigned long request, void* argument, std::string_view detail = "") {
  const SysResult result = kernel.Ioctl(fd, request, argument);
  return result.ok() ? absl::OkStatus() : ErrnoStatus(call, result.error, detail);
}

// KVM_CHECK_EXTENSION on a VM fd; a kernel that refuses the question has not got the thing.
inline long CheckExtension(KvmSyscalls& kernel, BorrowedFd vm, uint64_t capability) {
  const SysResult result = kernel.Ioctl(vm, KVM_CHECK_EXTENSION, IoctlNumber(capability));
  return result.ok() ? result.value : 0;
}

// The fd that a successful call returned, made close-on-exec. KVM itself leaves that open for
// guest_memfds (virt/kvm/guest_memfd.c); between its return and this call a concurrent fork + exec
// can inherit one, so a VMM starts no programs while it builds a VM.
absl::StatusOr<UniqueFd> AdoptFd(const SysResult& result, KernelCall call, std::string_view detail);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_IOCTL_CALL_H_
