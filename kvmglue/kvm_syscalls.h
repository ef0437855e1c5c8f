// SPDX-License-Identifier: Apache-2.0
//
// The raw kernel seam: exactly the system calls through which Rehome touches KVM, one method each,
// no logic. There are two implementations: OpenRealKvm() (os_kvm_syscalls.h) and the simulated
// kernel (sim/simulated_kernel.h), plus FaultInjector (fault_injector.h), which wraps either.
// Everything above this header behaves the same on all of them.
#ifndef REHOME_KVMGLUE_KVM_SYSCALLS_H_
#define REHOME_KVMGLUE_KVM_SYSCALLS_H_

#include <sys/types.h>

#include <cstddef>

#include "kvmglue/fd.h"
#include "kvmglue/sys_result.h"

namespace rehome {

// Thread-safe: KVM's ioctls are. KVM_RUN blocks; the others return soon (MOVE waits for vCPUs).
class KvmSyscalls {
 public:
  virtual ~KvmSyscalls() = default;

  // open("/dev/kvm", O_RDWR | O_CLOEXEC). On success `value` is an fd that the caller owns.
  virtual SysResult OpenKvm() = 0;

  // ioctl(2). `argument` is what the request takes: a pointer or a plain number in pointer clothes.
  // A request that returns an fd returns one that the caller owns; KVM itself does not always set
  // close-on-exec (virt/kvm/guest_memfd.c uses get_unused_fd_flags(0)), so both implementations
  // leave that to the typed layer, which sets it at once.
  virtual SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) = 0;

  // mmap(2) with MAP_SHARED and PROT_READ | PROT_WRITE. On success *address is set, and the caller
  // unmaps it with munmap(2). Used for kvm_run pages and for guest memory.
  virtual SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) = 0;

  // "kvm" or "sim", for reports.
  virtual const char* Name() const = 0;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_KVM_SYSCALLS_H_
