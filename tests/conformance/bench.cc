// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/bench.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace rehome::conformance {
namespace {

UniqueFd Expect(long result, const char* call) {
  EXPECT_GE(result, 0) << call << ": " << strerrorname_np(static_cast<int>(-result));
  return UniqueFd(static_cast<int>(result));
}

}  // namespace

Bench::Bench(KvmSyscalls& kernel, LinkAbi link_abi) : kernel_(kernel), link_abi_(link_abi) {
  const SysResult opened = kernel.OpenKvm();
  EXPECT_TRUE(opened.ok()) << "open /dev/kvm: " << strerrorname_np(opened.error);
  kvm_ = UniqueFd(static_cast<int>(opened.value));
  run_bytes_ = static_cast<size_t>(Call(kvm(), KVM_GET_VCPU_MMAP_SIZE));
  const UniqueFd trial(static_cast<int>(TryCreateVm(static_cast<uint64_t>(VmType::kSwProtected))));
  memory_type_ = trial.valid() ? VmType::kSwProtected : VmType::kDefault;
}

long Bench::Call(BorrowedFd fd, unsigned long request, const void* argument) {
  const SysResult result = kernel_.Ioctl(fd, request, const_cast<void*>(argument));
  return result.ok() ? result.value : -result.error;
}

long Bench::Call(BorrowedFd fd, unsigned long request, unsigned long number) {
  return Call(fd, request, reinterpret_cast<const void*>(number));
}

long Bench::TryCreateVm(uint64_t type) { return Call(kvm(), KVM_CREATE_VM, type); }

long Bench::TryCreateMemory(BorrowedFd vm, uint64_t bytes, uint64_t flags) {
  const kvm_create_guest_memfd request = {.size = bytes, .flags = flags, .reserved = {}};
  return Call(vm, KVM_CREATE_GUEST_MEMFD, &request);
}

long Bench::TryLink(BorrowedFd vm, BorrowedFd source) {
  return TryLink(vm, {.fd = static_cast<uint32_t>(source.raw()), .flags = 0, .reserved = {}});
}

long Bench::TryLink(BorrowedFd vm, const LinkGuestMemfdArgs& arguments) {
  return Call(vm, LinkGuestMemfdRequest(link_abi_.ioctl_number), &arguments);
}

long Bench::SetSlot(BorrowedFd vm, const kvm_userspace_memory_region2& region) {
  return Call(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

long Bench::DeleteSlot(BorrowedFd vm, uint32_t slot) { return SetSlot(vm, {.slot = slot}); }

long Bench::SetPrivate(BorrowedFd vm, uint64_t gpa, uint64_t bytes, bool is_private) {
  const kvm_memory_attributes request = {
      .address = gpa,
      .size = bytes,
      .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
      .flags = 0};
  return Call(vm, KVM_SET_MEMORY_ATTRIBUTES, &request);
}

long Bench::Move(BorrowedFd destination, BorrowedFd source) {
  kvm_enable_cap cap = {};
  cap.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  cap.args[0] = static_cast<uint32_t>(source.raw());
  return Call(destination, KVM_ENABLE_CAP, &cap);
}

bool Bench::IsDead(BorrowedFd vm) {
  return Call(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == -EIO;
}

UniqueFd Bench::CreateVm(VmType type) {
  return Expect(TryCreateVm(static_cast<uint64_t>(type)), "KVM_CREATE_VM");
}

UniqueFd Bench::CreateMemory(BorrowedFd vm, uint64_t bytes, uint64_t flags) {
  return Expect(TryCreateMemory(vm, bytes, flags), "KVM_CREATE_GUEST_MEMFD");
}

UniqueFd Bench::Link(BorrowedFd vm, BorrowedFd source) {
  return Expect(TryLink(vm, source), "KVM_LINK_GUEST_MEMFD");
}

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kPatienceSeconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace rehome::conformance
