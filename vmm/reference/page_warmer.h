// SPDX-License-Identifier: Apache-2.0
//
// Makes the page tables with which KVM runs a guest (shadow or nested), in a VM that will take that
// guest over, before it does: afterwards the guest would pay for them fault by fault, 0.7 us for
// each page whose host page table is there and 3 to 4 us for each other (docs/blackout.md).
//
// vCPU 0 of the new VM runs five instructions of ours that read one byte of each page, while the
// guest runs elsewhere. They are in a read-only slot of this VM, not in the guest's memory, and
// nothing of the guest's vCPUs is in the VM yet: no second guest runs, and nothing is written.
// Under shadow paging KVM keys what it makes by the guest's own page tables, so these are used from
// their second level on; which is why only a guest whose tables we know can be warmed: the built-in
// one, whose first level is ours to replace. What its tables say is the guest's word: a page that
// is not where they should have it is a triple fault or an access to no memory, which ends the work
// and no more. No interrupt or fault enters code of the guest's: there is no descriptor table.
#ifndef REHOME_VMM_REFERENCE_PAGE_WARMER_H_
#define REHOME_VMM_REFERENCE_PAGE_WARMER_H_

#include <chrono>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm.h"
#include "vmm/reference/guest_ram.h"

namespace rehome {

// Where the slot of the instructions lies, in every VM that was warmed, for as long as it exists:
// below KVM's own TSS slot (kvmglue/vm.cc), where no RAM can be. To delete it would throw away all
// that was made.
inline constexpr uint64_t kWarmerGpa = 0xfffb8000;
inline constexpr uint64_t kWarmerBytes = 5 * 4096;

class PageWarmer {
 public:
  // Warms what the memory holds already, until `budget` is over, which is looked at every 4 MiB.
  // Allocates no guest memory. Returns the bytes warmed; 0 if the memory holds no built-in guest.
  // `slot` must be free in `vm`. Errors of SetMemslot(), SaveState(), RestoreState() and Run(), and
  // INTERNAL / WARM_UP_FAILED for an exit that has no place here: `vcpu` can still be restored, but
  // is in no state to run. REQUIRES: ram.mapped(), bound in `vm`; `vcpu` is its vCPU 0 and has its
  // CPUID. Called on any one thread, before any vCPU of `vm` has run.
  static absl::StatusOr<uint64_t> Warm(Vm& vm, Vcpu& vcpu, const GuestRam& ram, uint32_t slot,
                                       std::chrono::milliseconds budget);
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_PAGE_WARMER_H_
