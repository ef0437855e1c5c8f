// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_VCPU_H_
#define REHOME_KVMGLUE_VCPU_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
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

enum class VcpuExit {
  kInterrupted,   // EINTR: kicked, or immediate_exit
  kIo,            // port I/O; see io()
  kMmio,
  kHalt,          // HLT without in-kernel irqchip
  kShutdown,      // triple fault
  kSystemEvent,
  kMemoryFault,   // KVM_EXIT_MEMORY_FAULT; see fault()
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

struct MemoryFault {
  uint64_t gpa = 0, size = 0;
  bool is_private = false;
};

// One vCPU. Used by one thread, except Kick(), which may be called from any.
class Vcpu {
 public:
  ~Vcpu();

  // KVM_RUN. Errors: FAILED_PRECONDITION / VM_DEAD (EIO), INTERNAL / KVM_RUN_FAILED.
  absl::StatusOr<VcpuExit> Run();

  // Makes the current or next Run() return kInterrupted: sets immediate_exit and, if `thread` is
  // given, signals it (both are needed: a vCPU that is halted in the kernel ignores the flag, one that
  // is just before KVM_RUN ignores the signal). ClearKick() before running on.
  void RequestImmediateExit();
  void ClearImmediateExit();

  PortIo io() const;
  MemoryFault fault() const;
  // exit_reason and sub-error as numbers, for messages.
  std::string DescribeExit() const;

  // KVM_RUN once with immediate_exit, so that a pending PIO or MMIO is completed and the registers are
  // the guest's (Documentation/virt/kvm/api.rst, 5 "NOTE: For KVM_EXIT_IO ...").
  absl::Status CompletePendingIo();

  // KVM_GET_SUPPORTED_CPUID with the topology of vCPU `index` of `count`, as bytes that
  // SetCpuid() takes. The target must set exactly the source's.
  absl::Status SetCpuid(std::span<const std::byte> cpuid2);

  absl::Status SaveState(VcpuState& state) const;
  absl::Status RestoreState(const VcpuState& state);

  BorrowedFd fd() const;
};

// Supported CPUID of this host for vCPU `index` of `count`: a struct kvm_cpuid2 with entries.
absl::StatusOr<std::vector<std::byte>> DefaultCpuid(KvmSyscalls& kernel, uint32_t index,
                                                    uint32_t count);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VCPU_H_
