// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/traced_kvm.h"

#include <ctime>

#include "kvmglue/kvm_abi.h"

namespace rehome {
namespace {

uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint32_t OperationOf(unsigned long request, unsigned long link_request) {
  switch (request) {
#define REHOME_OPERATION(number, name) \
  case name:                           \
    return number;
    REHOME_TRACE_OPERATIONS(REHOME_OPERATION)
#undef REHOME_OPERATION
    default:  // the kernel's numbers, not an enum of ours
      return request == link_request ? REHOME_TRACE_LINK_GUEST_MEMFD : REHOME_TRACE_OTHER;
  }
}

}  // namespace

TracedKvm::TracedKvm(KvmSyscalls& wrapped, const LinkAbi& link_abi, rehome_trace* trace)
    : wrapped_(wrapped),
      link_request_(LinkGuestMemfdRequest(link_abi.ioctl_number)),
      trace_(trace) {}

SysResult TracedKvm::Ioctl(BorrowedFd fd, unsigned long request, void* argument) {
  if (!rehome_trace_wanted(trace_)) {
    const SysResult result = wrapped_.Ioctl(fd, request, argument);
    Learn(request, argument, result);
    return result;
  }
  const uint64_t begin = MonotonicNs();
  const SysResult result = wrapped_.Ioctl(fd, request, argument);
  const uint64_t end = MonotonicNs();
  Learn(request, argument, result);
  // The caller reads errno from the result, so nothing here can disturb it.
  rehome_trace_record(trace_, OperationOf(request, link_request_), VcpuOf(fd), begin, end);
  return result;
}

void TracedKvm::Learn(unsigned long request, const void* argument, const SysResult& result) {
  if (request != KVM_CREATE_VCPU || !result.ok()) return;
  const auto index = reinterpret_cast<uintptr_t>(argument);
  const auto fd = static_cast<size_t>(result.value);
  if (fd < kKnownFds && index < UINT16_MAX) vcpus_[fd] = static_cast<uint16_t>(index + 1);
}

uint32_t TracedKvm::VcpuOf(BorrowedFd fd) const {
  const auto number = static_cast<size_t>(fd.raw());
  const uint32_t known = number < kKnownFds ? vcpus_[number].load(std::memory_order_relaxed) : 0;
  return known == 0 ? REHOME_TRACE_NO_VCPU : known - 1;
}

}  // namespace rehome
