// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/scripted_kvm.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace rehome::testing {
namespace {

constexpr long kRunBytes = 3 * 4096;

SysResult AllMsrs(BorrowedFd, void* argument) {
  uint32_t count = 0;
  std::memcpy(&count, argument, sizeof(count));
  return {.value = static_cast<long>(count)};
}

}  // namespace

ScriptedKvm::ScriptedKvm() {
  On(KVM_GET_API_VERSION, [](BorrowedFd, void*) { return SysResult{.value = KVM_API_VERSION}; });
  On(KVM_GET_VCPU_MMAP_SIZE, [](BorrowedFd, void*) { return SysResult{.value = kRunBytes}; });
  On(KVM_GET_MSR_INDEX_LIST, [this](BorrowedFd, void* argument) {
    auto* list = static_cast<kvm_msr_list*>(argument);
    list->nmsrs = static_cast<uint32_t>(msr_indices.size());
    std::copy(msr_indices.begin(), msr_indices.end(), list->indices);
    return SysResult{};
  });
  On(KVM_GET_MSRS, AllMsrs);
  On(KVM_SET_MSRS, AllMsrs);
  ReturnFd(KVM_CREATE_VM);
  ReturnFd(KVM_CREATE_VCPU);
  ReturnFd(KVM_CREATE_GUEST_MEMFD);
  Fail(KVM_RUN, EINTR);
}

SysResult ScriptedKvm::NewFd() { return CaptureErrno(memfd_create("scripted", 0)); }

SysResult ScriptedKvm::OpenKvm() {
  return open_error_ == 0 ? NewFd() : SysResult{.value = -1, .error = open_error_};
}

SysResult ScriptedKvm::Ioctl(BorrowedFd fd, unsigned long request, void* argument) {
  if (request == KVM_CHECK_EXTENSION && !answers_.contains(request)) {
    return {.value = extensions[reinterpret_cast<uint64_t>(argument)]};
  }
  calls.push_back(request);
  const auto answer = answers_.find(request);
  return answer == answers_.end() ? SysResult{} : answer->second(fd, argument);
}

SysResult ScriptedKvm::MapShared(BorrowedFd, size_t length, off_t, void** address) {
  *address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  run = static_cast<kvm_run*>(*address);
  return CaptureErrno(*address == MAP_FAILED ? -1 : 0);
}

void ScriptedKvm::Fail(unsigned long request, int error) {
  On(request, [error](BorrowedFd, void*) { return SysResult{.value = -1, .error = error}; });
}

void ScriptedKvm::ReturnFd(unsigned long request) {
  On(request, [](BorrowedFd, void*) { return NewFd(); });
}

size_t ScriptedKvm::Count(unsigned long request) const {
  return static_cast<size_t>(std::count(calls.begin(), calls.end(), request));
}

size_t ScriptedKvm::At(unsigned long request) const {
  EXPECT_EQ(Count(request), 1u) << std::hex << request;
  return static_cast<size_t>(std::find(calls.begin(), calls.end(), request) - calls.begin());
}

}  // namespace rehome::testing
