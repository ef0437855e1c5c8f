// SPDX-License-Identifier: Apache-2.0
//
// Notes each ioctl of any KvmSyscalls in the trace of the hop (vmm/agent/trace.h): its name, its
// vCPU, when and how long. While no hop wants a trace it costs one load a call.
#ifndef REHOME_KVMGLUE_TRACED_KVM_H_
#define REHOME_KVMGLUE_TRACED_KVM_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
#include "vmm/agent/trace.h"

namespace rehome {

class TracedKvm final : public KvmSyscalls {
 public:
  // `wrapped` and `trace` must outlive the object.
  TracedKvm(KvmSyscalls& wrapped, const LinkAbi& link_abi, rehome_trace* trace);

  SysResult OpenKvm() override { return wrapped_.OpenKvm(); }
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override;
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override {
    return wrapped_.MapShared(fd, length, offset, address);
  }
  const char* Name() const override { return wrapped_.Name(); }

 private:
  // Descriptors whose vCPU is known. A VMM opens those of its vCPUs early; calls on a higher one
  // are noted without a vCPU.
  static constexpr size_t kKnownFds = 4096;

  // Learns what a new descriptor is.
  void Learn(unsigned long request, const void* argument, const SysResult& result);
  uint32_t VcpuOf(BorrowedFd fd) const;

  KvmSyscalls& wrapped_;
  const unsigned long link_request_;
  rehome_trace* const trace_;
  // By descriptor: the vCPU's index + 1; 0: no vCPU.
  std::array<std::atomic<uint16_t>, kKnownFds> vcpus_{};
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_TRACED_KVM_H_
