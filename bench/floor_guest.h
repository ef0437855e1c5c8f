// SPDX-License-Identifier: Apache-2.0
//
// The floor's guest is the reference VMM's (vmm/reference/guest), so that both sides of the
// comparison move the same thing; here is what the floor needs to start it and to ask it for its
// gaps.
#ifndef REHOME_BENCH_FLOOR_GUEST_H_
#define REHOME_BENCH_FLOOR_GUEST_H_

#include <cstdint>
#include <memory>

#include "bench/floor_vm.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/options.h"

namespace rehome::bench {

// Starts the guest in a VM of this process, in a guest_memfd of its own.
class FloorGuest {
 public:
  FloorGuest(int vcpus, uint64_t memory_mib, uint64_t working_set_pages, bool memfd);
  ~FloorGuest();

  // The VM with every vCPU at the guest's entry. Ends the process on any error.
  std::unique_ptr<FloorVm> Start();
  // What the guest's memory is. REQUIRES: Start() came before.
  BorrowedFd memory() const;

 private:
  const GuestOptions options_;
  const std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<Machine> machine_;
};

// The guest's own account, read and written while it runs.
class FloorMailboxes {
 public:
  FloorMailboxes() = default;
  // `low` is guest memory from gpa 0, at least REHOME_GUEST_RESERVED bytes, mapped as long as this
  // is used.
  FloorMailboxes(void* low, int vcpus) : low_(static_cast<unsigned char*>(low)), vcpus_(vcpus) {}

  // Each returns once every vCPU has answered.
  void AwaitStart() const;
  void ResetGaps() const;

  // Since ResetGaps(), of the vCPU that saw the longest.
  double LongestGapUs() const;
  uint64_t Errors() const;

 private:
  volatile rehome_guest_mailbox& mailbox(int vcpu) const;

  unsigned char* low_ = nullptr;
  int vcpus_ = 0;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FLOOR_GUEST_H_
