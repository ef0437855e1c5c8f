// SPDX-License-Identifier: Apache-2.0
//
// Fails chosen system calls of any KvmSyscalls: for tests that ask "and if this one fails?", of a
// whole VMM process too, which gets its plan as text by flag.
#ifndef REHOME_KVMGLUE_SIM_FAULT_INJECTOR_H_
#define REHOME_KVMGLUE_SIM_FAULT_INJECTOR_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/sim/fault_operation.h"
#include "kvmglue/sim/fault_page.h"

namespace rehome {

struct Fault {
  FaultOperation operation;
  uint64_t call = 1;  // the first call of that kind is 1
  int error = 0;      // errno
  bool once = true;   // or from that call on
};

class FaultInjector final : public KvmSyscalls {
 public:
  // `wrapped` must outlive the injector. `page`, where there is one, has a say as well.
  FaultInjector(KvmSyscalls& wrapped, std::vector<Fault> plan, FaultPage* page = nullptr);

  // An injected failure does not reach the wrapped kernel.
  SysResult OpenKvm() override;
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override;
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override;
  const char* Name() const override { return wrapped_.Name(); }

  // Calls so far, injected ones too, by name: a sweep runs once without a plan to learn what there
  // is to fail.
  std::map<std::string, uint64_t> Calls() const;
  // How many calls were made to fail. A test whose fault never happened has tested nothing.
  uint64_t injected() const;

 private:
  // Counts a call; 0, or the errno that it has to fail with.
  int Count(const FaultOperation& operation);

  KvmSyscalls& wrapped_;
  const std::vector<Fault> plan_;
  FaultPage* const page_;
  mutable std::mutex mutex_;  // guards what follows; never held during a call
  std::map<FaultOperation, uint64_t> calls_;
  uint64_t injected_ = 0;
};

// "KVM_ENABLE_CAP:1:EINVAL:once,MAP:2:ENOMEM:always". "KVM_LINK_GUEST_MEMFD" is the ioctl of this
// number, which is configuration (link_abi.h). "" is a plan without faults. INVALID_ARGUMENT /
// FAULT_PLAN_INVALID naming the item.
absl::StatusOr<std::vector<Fault>> ParseFaultPlan(std::string_view text,
                                                  uint32_t link_ioctl_number);

std::string FaultOperationName(const FaultOperation& operation);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_FAULT_INJECTOR_H_
