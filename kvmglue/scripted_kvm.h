// SPDX-License-Identifier: Apache-2.0
//
// A KvmSyscalls for unit tests of the typed layer: it records every call and answers what the test
// says, else success with zeros. It knows no rules; the simulated kernel does.
#ifndef REHOME_KVMGLUE_SCRIPTED_KVM_H_
#define REHOME_KVMGLUE_SCRIPTED_KVM_H_

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/kvm_syscalls.h"

namespace rehome::testing {

// Not thread-safe.
class ScriptedKvm final : public KvmSyscalls {
 public:
  using Answer = std::function<SysResult(BorrowedFd fd, void* argument)>;

  ScriptedKvm();

  SysResult OpenKvm() override;
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override;
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override;
  const char* Name() const override { return "scripted"; }

  // Answers `request` from now on.
  void On(unsigned long request, Answer answer) { answers_[request] = std::move(answer); }
  void Fail(unsigned long request, int error);
  void FailOpen(int error) { open_error_ = error; }
  // A request that returns a descriptor: a fresh one, not close-on-exec, as KVM's guest_memfds are.
  void ReturnFd(unsigned long request);

  // KVM_CHECK_EXTENSION.
  std::map<uint64_t, long> extensions;
  // KVM_GET_MSR_INDEX_LIST.
  std::vector<uint32_t> msr_indices = {0x10, 0x3b, 0x174, 0x6e0};
  // Requests in the order of calls, without KVM_CHECK_EXTENSION.
  std::vector<unsigned long> calls;
  // The page of the last vCPU.
  kvm_run* run = nullptr;

  size_t Count(unsigned long request) const;
  // Position of the only call of `request`; fails the test if there is none, or more than one.
  size_t At(unsigned long request) const;

 private:
  static SysResult NewFd();

  std::map<unsigned long, Answer> answers_;
  int open_error_ = 0;
};

}  // namespace rehome::testing

#endif  // REHOME_KVMGLUE_SCRIPTED_KVM_H_
