// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_VCPU_H_
#define REHOME_KVMGLUE_VCPU_H_

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"

struct kvm_run;

namespace rehome {

struct MemoryRange {
  uint64_t gpa = 0;
  uint64_t size_bytes = 0;
};

// Everything KVM keeps of one vCPU that the guest can see, as plain bytes in a fixed layout
// (vcpu_state.h), so that it can live in a handover block and be checked by whoever reads it.
struct VcpuState;

struct VcpuTraits;

enum class VcpuExit {
  kInterrupted,  // EINTR: kicked, or immediate_exit
  kIo,           // port I/O; see io()
  kMmio,         // see mmio()
  kHalt,         // HLT without in-kernel irqchip
  kShutdown,     // triple fault
  kSystemEvent,
  kMemoryFault,  // KVM_EXIT_MEMORY_FAULT; see fault()
  kInternalError,
  kUnknown,
};

struct PortIo {
  uint16_t port = 0;
  bool is_out = false;
  uint8_t width = 1;
  uint32_t count = 1;
  std::span<uint8_t> data;  // inside kvm_run, valid until the next Run(); fill it for an IN
};

struct MmioAccess {
  uint64_t gpa = 0;
  bool is_write = false;
  std::span<uint8_t> data;  // inside kvm_run, valid until the next Run(); fill it for a read
};

struct MemoryFault {
  uint64_t gpa = 0, size = 0;
  bool is_private = false;
};

// One vCPU, made by Vm::CreateVcpu(). Used by one thread, except RequestImmediateExit() and Kick(),
// which may be called from any. The Vm need not outlive it; the KvmSyscalls must.
class Vcpu {
 public:
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;
  ~Vcpu();

  // KVM_RUN. Errors: FAILED_PRECONDITION / VM_DEAD (EIO), INTERNAL / KVM_RUN_FAILED.
  absl::StatusOr<VcpuExit> Run();

  // Makes the current or next Run() return kInterrupted. Setting immediate_exit is not enough for a
  // vCPU in the guest or halted in the kernel, and a signal is not enough just before KVM_RUN: so
  // Kick() does both. ClearImmediateExit() before running on.
  void RequestImmediateExit();
  void ClearImmediateExit();
  // RequestImmediateExit(), then pthread_kill(). REQUIRES: `thread` has not been joined, and
  // `signal_number` has a handler that does nothing, without SA_RESTART.
  void Kick(pthread_t thread, int signal_number);

  PortIo io() const;
  MmioAccess mmio() const;
  MemoryFault fault() const;
  // exit_reason and sub-error as numbers, for messages.
  std::string DescribeExit() const;

  // Whether the last Run() came back with an access that the next one completes.
  bool io_pending() const { return io_pending_; }

  // KVM_RUN once with immediate_exit, so that a pending PIO or MMIO is completed and the registers
  // are the guest's (Documentation/virt/kvm/api.rst, 5 "NOTE: For KVM_EXIT_IO ..."). Leaves the
  // request for immediate exit set. FAILED_PRECONDITION / IO_PENDING: the instruction makes another
  // access (REP INS, an access across pages); serve it as after Run(), then call this again.
  absl::Status CompletePendingIo();

  // KVM_SET_CPUID2 with the bytes of a struct kvm_cpuid2 (DefaultCpuid()). The target must set
  // exactly the source's. Then prepares for SaveState() and RestoreState(): finds out which MSRs
  // there are and what state the vCPU is in, some 50 ioctls for the first vCPU of a VM.
  // INVALID_ARGUMENT / CPUID_INVALID (malformed) or CPUID_REFUSED (KVM says EINVAL).
  absl::Status SetCpuid(std::span<const std::byte> cpuid2);

  // Both cost a handful of ioctls and neither allocates nor looks anything up (a SaveState()
  // without SetCpuid() before it prepares first). vcpu_save_restore.cc has the order and its
  // reasons.
  //
  // SaveState: no vCPU of the VM may run. Completes pending I/O, and leaves the request for
  // immediate exit set. The vCPU itself is unchanged and can run on here. INTERNAL /
  // VCPU_STATE_SAVE_FAILED, FAILED_PRECONDITION / IO_PENDING or VM_DEAD: `state` is unusable.
  absl::Status SaveState(VcpuState& state);
  // RestoreState: INVALID_ARGUMENT / VCPU_STATE_INVALID (malformed, or of a vCPU of another kind:
  // nothing was changed), VCPU_STATE_REFUSED (KVM says EINVAL), INTERNAL /
  // VCPU_STATE_RESTORE_FAILED: the vCPU is in no state to run.
  absl::Status RestoreState(const VcpuState& state);

  uint32_t index() const { return index_; }
  BorrowedFd fd() const { return fd_.borrow(); }

 private:
  friend class Vm;
  // What this vCPU is known to hold, so that RestoreState() can leave out what is so already.
  struct Known;

  Vcpu(std::shared_ptr<VcpuTraits> traits, uint32_t index, UniqueFd fd, kvm_run* run);

  absl::Status Call(KernelCall call, unsigned long request, void* argument, const char* name) const;
  absl::Status CallTscOffset(KernelCall call, unsigned long request, void* offset) const;
  absl::Status Prepare();
  absl::Status SaveMsrs(VcpuState& state) const;
  absl::Status SaveRegistersByIoctl(VcpuState& state) const;
  absl::Status SaveRegistersFromRun(VcpuState& state);
  absl::Status SaveUnprotected(VcpuState& state);
  absl::Status SaveProtected(VcpuState& state) const;
  absl::Status CheckFits(const VcpuState& state) const;
  absl::Status RestoreMsrs(const VcpuState& state) const;
  absl::Status RestoreUnprotected(const VcpuState& state);
  absl::Status RestoreProtected(const VcpuState& state) const;
  bool CanStage(const VcpuState& state) const;

  const std::shared_ptr<VcpuTraits> traits_;
  const uint32_t index_;
  const UniqueFd fd_;
  kvm_run* const run_;
  bool prepared_ = false;
  bool has_tsc_offset_ = false;
  bool io_pending_ = false;
  std::unique_ptr<Known> known_;
  bool known_is_true_ = false;  // from Prepare() to the first Run() or RestoreState()
};

// Supported CPUID of this host for vCPU `index` of `count`: a struct kvm_cpuid2 with entries.
// Without VMX and SVM, since nested state is not carried. INVALID_ARGUMENT / BAD_VCPU_INDEX.
absl::StatusOr<std::vector<std::byte>> DefaultCpuid(KvmSyscalls& kernel, uint32_t index,
                                                    uint32_t count);

// Shows the LAPIC timer's deadline mode in a result of DefaultCpuid(), where KVM leaves it to the
// VMM (api.rst, KVM_GET_SUPPORTED_CPUID). A guest then need not measure the timer against the PIT,
// which fails where the host is slow.
void AddTscDeadline(std::span<std::byte> cpuid2);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VCPU_H_
