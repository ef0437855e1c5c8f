// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/throwaway_vm.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "kvmglue/ioctl_call.h"

namespace rehome {

absl::StatusOr<std::unique_ptr<ThrowawayVm>> ThrowawayVm::Create(KvmSyscalls& kernel,
                                                                 BorrowedFd kvm, VmType type) {
  const uint32_t number = static_cast<uint32_t>(type);
  absl::StatusOr<UniqueFd> fd = AdoptFd(kernel.Ioctl(kvm, KVM_CREATE_VM, IoctlNumber(number)),
                                        KernelCall::kCreateVm, absl::StrCat("type ", number));
  if (!fd.ok()) return fd.status();
  return std::unique_ptr<ThrowawayVm>(new ThrowawayVm(kernel, type, *std::move(fd)));
}

ThrowawayVm::ThrowawayVm(KvmSyscalls& kernel, VmType type, UniqueFd fd)
    : kernel_(kernel), type_(type), fd_(std::move(fd)) {}

ThrowawayVm::~ThrowawayVm() {
  if (run_ != nullptr) munmap(run_, run_bytes_);
  if (page_ != nullptr) munmap(page_, kThrowawayPageBytes);
}

SysResult ThrowawayVm::Ioctl(unsigned long request, void* argument) const {
  return kernel_.Ioctl(fd(), request, argument);
}

SysResult ThrowawayVm::BindPage(BorrowedFd guest_memfd) {
  if (page_ == nullptr) {
    void* page = mmap(nullptr, kThrowawayPageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return CaptureErrno(-1);
    page_ = page;
  }
  kvm_userspace_memory_region2 region = {};
  region.memory_size = kThrowawayPageBytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(page_);
  if (!guest_memfd.valid()) return Ioctl(KVM_SET_USER_MEMORY_REGION, &region);
  region.flags = KVM_MEM_GUEST_MEMFD;
  region.guest_memfd = static_cast<uint32_t>(guest_memfd.raw());
  return Ioctl(KVM_SET_USER_MEMORY_REGION2, &region);
}

SysResult ThrowawayVm::CreateGuestMemfd(uint64_t flags, UniqueFd& fd) const {
  kvm_create_guest_memfd create = {.size = kThrowawayPageBytes, .flags = flags, .reserved = {}};
  const SysResult result = Ioctl(KVM_CREATE_GUEST_MEMFD, &create);
  if (result.ok()) {
    fd = UniqueFd(static_cast<int>(result.value));
    (void)SetCloseOnExec(fd.borrow());
  }
  return result;
}

absl::Status ThrowawayVm::CreateVcpu(BorrowedFd kvm) {
  if (run_ != nullptr) return absl::OkStatus();
  const SysResult size = kernel_.Ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, nullptr);
  if (!size.ok()) return ErrnoStatus(KernelCall::kGetVcpuMmapSize, size.error, "");
  absl::StatusOr<UniqueFd> vcpu =
      AdoptFd(Ioctl(KVM_CREATE_VCPU, nullptr), KernelCall::kCreateVcpu, "vCPU 0");
  if (!vcpu.ok()) return vcpu.status();
  run_bytes_ = static_cast<size_t>(size.value);
  void* run = nullptr;
  const SysResult mapped = kernel_.MapShared(vcpu->borrow(), run_bytes_, 0, &run);
  if (!mapped.ok()) return ErrnoStatus(KernelCall::kMapRun, mapped.error, "vCPU 0");
  vcpu_ = *std::move(vcpu);
  run_ = static_cast<kvm_run*>(run);
  return absl::OkStatus();
}

SysResult ThrowawayVm::VcpuIoctl(unsigned long request, void* argument) const {
  return kernel_.Ioctl(vcpu_.borrow(), request, argument);
}

}  // namespace rehome
