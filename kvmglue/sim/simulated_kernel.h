// SPDX-License-Identifier: Apache-2.0
//
// A kernel for hosts without one: KVM's rules about who owns a VM and its memory, on memfds. Files
// pass between processes by SCM_RIGHTS and survive their processes as KVM's do, so that the same
// daemon, agent library and VMM run on it, each in its own process, and any of them may be
// SIGKILLed at any point.
//
// The same as in the kernel (each handler's header names its errnos and the source file):
//   - VM and vCPU ioctls from another address space than the creator's give EIO, and so do all of
//   them
//     once the VM is dead; fd arguments of LINK and MOVE are free of that rule
//   - a guest_memfd file belongs to one VM for ever; LINK makes another file for the same inode
//   - MOVE waits for KVM_RUN of all vCPUs, compares, hands over, and leaves the source dead
//   - vm_dead stops vCPUs, not memory: old files still reach the inode
// Different, because a library stands where the kernel should:
//   - a guest_memfd can be read(2), written, reopened through /proc and is not refused by
//   fallocate(2)
//     modes; while a link is gated only KVM_RUN and MapShared() are
//   - close(2) of the last copy is noticed at the next KVM_RUN, MOVE or KVM_CREATE_VM (file_tag.h)
//   - a signal ends KVM_RUN only together with immediate_exit
//   - a bad pointer other than nullptr is SIGSEGV, not EFAULT
//   - interrupts are state, not events: nothing is delivered, KVM_IRQFD and KVM_IRQ_LINE give
//   ENOTTY
//   - one fd and one mapping more per VM and per bound guest_memfd
#ifndef REHOME_KVMGLUE_SIM_SIMULATED_KERNEL_H_
#define REHOME_KVMGLUE_SIM_SIMULATED_KERNEL_H_

#include <memory>

#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sim/simulated_cpu.h"

namespace rehome {

// Thread-safe. Make one per process and use a VM through the one that created it. Destroying it
// drops its mappings of VMs and guest memory; REQUIRES that no call is under way.
class SimulatedKernel final : public KvmSyscalls {
 public:
  // `cpu` is what vCPUs run, and must outlive the kernel.
  SimulatedKernel(SimulatedKernelOptions options, SimulatedCpu& cpu);
  ~SimulatedKernel() override;
  SimulatedKernel(const SimulatedKernel&) = delete;
  SimulatedKernel& operator=(const SimulatedKernel&) = delete;

  SysResult OpenKvm() override;

  // EBADF `fd` is not open; ENOTTY not a file of this kernel, or a VM ioctl that it does not have;
  // EINVAL a system or vCPU ioctl that it does not have; EIO see above; else what the handler says.
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override;

  // vCPU fd: its kvm_run area, also in other processes, as on KVM; EINVAL beyond it. guest_memfd:
  // see guest_memfd.h. ENODEV for VM and system fds. Other fds: plain mmap(2).
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override;

  const char* Name() const override { return "sim"; }

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_SIMULATED_KERNEL_H_
