// SPDX-License-Identifier: Apache-2.0
//
// The floor's guest is the reference VMM's (vmm/reference/guest), so that both sides of the comparison
// move the same thing; here is what the floor needs to start it and to ask it for its gaps.
#ifndef REHOME_BENCH_FLOOR_GUEST_H_
#define REHOME_BENCH_FLOOR_GUEST_H_

#include <cstdint>

#include "bench/floor_vm.h"
#include "vmm/reference/guest/guest_abi.h"

namespace rehome::bench {

// Puts the guest into `ram` (the whole guest memory, fresh) and every vCPU at its entry.
void LoadFloorGuest(FloorVm& vm, void* ram, uint64_t size, int vcpus, uint64_t working_set_pages);

// The guest's own account, read and written while it runs.
class FloorMailboxes {
 public:
  FloorMailboxes() = default;
  // `low` is guest memory from gpa 0, at least REHOME_GUEST_RESERVED bytes, mapped as long as this is used.
  FloorMailboxes(void* low, int vcpus)
      : low_(static_cast<unsigned char*>(low)), vcpus_(vcpus) {}

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
