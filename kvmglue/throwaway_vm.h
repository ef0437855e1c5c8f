// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_THROWAWAY_VM_H_
#define REHOME_KVMGLUE_THROWAWAY_VM_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// A VM to try things on. Not built on Vm: a probe wants raw answers, also absurd ones.
class ThrowawayVm {
 public:
  static absl::StatusOr<std::unique_ptr<ThrowawayVm>> Create(KvmSyscalls& kernel, BorrowedFd kvm,
                                                             VmType type);
  ThrowawayVm(const ThrowawayVm&) = delete;
  ThrowawayVm& operator=(const ThrowawayVm&) = delete;
  ~ThrowawayVm();

  VmType type() const { return type_; }
  BorrowedFd fd() const { return fd_.borrow(); }
  SysResult Ioctl(unsigned long request, void* argument) const;

  // One page at gpa 0, slot 0, backed by private memory of this process; `guest_memfd` also, if
  // valid.
  SysResult BindPage(BorrowedFd guest_memfd);
  SysResult CreateGuestMemfd(uint64_t flags, UniqueFd& fd) const;

  // The first vCPU and its kvm_run, made on the first call.
  absl::Status CreateVcpu(BorrowedFd kvm);
  SysResult VcpuIoctl(unsigned long request, void* argument) const;
  kvm_run* run() const { return run_; }

 private:
  ThrowawayVm(KvmSyscalls& kernel, VmType type, UniqueFd fd);

  KvmSyscalls& kernel_;
  const VmType type_;
  const UniqueFd fd_;
  void* page_ = nullptr;
  UniqueFd vcpu_;
  kvm_run* run_ = nullptr;
  size_t run_bytes_ = 0;
};

inline constexpr uint64_t kThrowawayPageBytes = 4096;

}  // namespace rehome

#endif  // REHOME_KVMGLUE_THROWAWAY_VM_H_
