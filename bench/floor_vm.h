// SPDX-License-Identifier: Apache-2.0
//
// Raw KVM for the floor: what a programmer writes who wants nothing but to move a guest to another
// process fast. No seam, no typed layer, no translated errors: whatever fails ends the process.
// This is the one place outside kvmglue/ with ioctl(), because the floor must owe nothing to the
// code that is held against it.
//
// The state set is the product's (kvmglue/vcpu_state.h, vm_state.h), or the comparison would not be
// one.
#ifndef REHOME_BENCH_FLOOR_VM_H_
#define REHOME_BENCH_FLOOR_VM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"

namespace rehome::bench {

inline constexpr int kFloorMaxVcpus = 16;
// The index list of a current host has 40 to 130 entries.
inline constexpr size_t kFloorMaxMsrs = 256;
// Without AMX the area of KVM_GET_XSAVE2 is 4 KiB; with it, 11 KiB.
inline constexpr size_t kFloorMaxXsave = 16384;

// struct kvm_msrs with room; C++ has no member behind its flexible array.
struct FloorMsrs {
  uint32_t count;
  uint32_t pad;
  kvm_msr_entry entries[kFloorMaxMsrs];
};

struct FloorVcpuState {
  kvm_mp_state mp_state;
  kvm_regs regs;
  kvm_sregs sregs;
  kvm_xcrs xcrs;
  kvm_vcpu_events events;
  kvm_debugregs debugregs;
  kvm_lapic_state lapic;
  uint64_t tsc_offset;
  FloorMsrs msrs;
  alignas(64) uint8_t xsave[kFloorMaxXsave];
};

struct FloorVmState {
  kvm_irqchip irqchip[3];
  kvm_pit_state2 pit;
  kvm_clock_data clock;
};

// A VM with in-kernel irqchip and PIT, and its vCPUs. Ends the process on any error.
class FloorVm {
 public:
  explicit FloorVm(int vcpu_count);
  // Around a VM that somebody else has made in this process.
  FloorVm(UniqueFd vm, std::vector<UniqueFd> vcpus);

  // Guest memory at gpa 0, with the hole below 4 GiB, as ordinary slots over the mapping at `hva`.
  void SetSlots(void* hva, uint64_t size);

  // KVM_RUN, until it is interrupted. Any exit to user space ends the process: the guest of the
  // floor has no reason for one.
  void Run(int vcpu);
  // Makes the next or current Run() return; the thread in it must also be signalled.
  void RequestExit(int vcpu) { run_[vcpu]->immediate_exit = 1; }

  // In the thread of that vCPU, while it is out of KVM_RUN.
  void Get(int vcpu, FloorVcpuState& state);
  void Set(int vcpu, const FloorVcpuState& state);
  // While no vCPU runs.
  void Get(FloorVmState& state);
  void Set(const FloorVmState& state);

 private:
  void AddVcpu(UniqueFd vcpu);
  void SetCpuid(int index, int count);
  void FindStateSizes();

  UniqueFd kvm_;
  UniqueFd vm_;
  std::vector<UniqueFd> vcpus_;
  std::vector<kvm_run*> run_;
  bool xsave2_ = false;
  std::vector<uint32_t> msrs_;
};

// Prints the call and errno, and ends the process.
[[noreturn]] void FloorDie(const char* call);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FLOOR_VM_H_
