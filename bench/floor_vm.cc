// SPDX-License-Identifier: Apache-2.0
#include "bench/floor_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/vcpu.h"

namespace rehome::bench {
namespace {

constexpr uint64_t kHoleStart = 0xc0000000;
constexpr uint64_t kHoleEnd = 0x100000000;
// As kvmglue/vm.cc: KVM's own slot for the TSS, below the BIOS area.
constexpr unsigned long kTssAddress = 0xfffbd000;

// arch/x86/include/asm/msr-index.h. Both are the TSC by another name, which tsc_offset carries; set
// from a value that was read earlier they would set the clock back.
constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrTscAdjust = 0x3b;

// struct kvm_msr_list with room.
struct MsrList {
  uint32_t count;
  uint32_t indices[1024];
};

template <typename Argument>
long Call(const UniqueFd& fd, unsigned long request, Argument argument, const char* name) {
  const long result = ioctl(fd.borrow().raw(), request, argument);
  if (result < 0) FloorDie(name);
  return result;
}

#define FLOOR_CALL(fd, request, argument) Call(fd, request, argument, #request)

kvm_device_attr TscOffset(const uint64_t* value) {
  return {.group = KVM_VCPU_TSC_CTRL,
          .attr = KVM_VCPU_TSC_OFFSET,
          .addr = reinterpret_cast<uint64_t>(value)};
}

}  // namespace

void FloorDie(const char* call) {
  fprintf(stderr, "floor: %s: %s\n", call, strerror(errno));
  _exit(1);
}

FloorVm::FloorVm(int vcpu_count) : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
  if (!kvm_) FloorDie("/dev/kvm");
  vm_ = UniqueFd(static_cast<int>(FLOOR_CALL(kvm_, KVM_CREATE_VM, 0)));
  FLOOR_CALL(vm_, KVM_SET_TSS_ADDR, kTssAddress);
  FLOOR_CALL(vm_, KVM_CREATE_IRQCHIP, 0);
  kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  FLOOR_CALL(vm_, KVM_CREATE_PIT2, &pit);
  // What a vCPU's events may hold; as in a VM of kvmglue/vm.cc, which is what the first one is.
  for (const uint32_t capability : {KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT}) {
    kvm_enable_cap enable = {.cap = capability, .args = {1}};
    FLOOR_CALL(vm_, KVM_ENABLE_CAP, &enable);
  }
  for (int i = 0; i < vcpu_count; ++i) {
    AddVcpu(UniqueFd(static_cast<int>(FLOOR_CALL(vm_, KVM_CREATE_VCPU, i))));
    SetCpuid(i, vcpu_count);
  }
  FindStateSizes();
}

FloorVm::FloorVm(UniqueFd vm, std::vector<UniqueFd> vcpus)
    : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC)), vm_(std::move(vm)) {
  if (!kvm_) FloorDie("/dev/kvm");
  for (UniqueFd& vcpu : vcpus) AddVcpu(std::move(vcpu));
  FindStateSizes();
}

void FloorVm::AddVcpu(UniqueFd vcpu) {
  const auto size = static_cast<size_t>(FLOOR_CALL(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0));
  void* run = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.borrow().raw(), 0);
  if (run == MAP_FAILED) FloorDie("mmap of kvm_run");
  run_.push_back(static_cast<kvm_run*>(run));
  // Saves three calls when the vCPU stops: each way out of KVM_RUN leaves these in kvm_run.
  run_.back()->immediate_exit = 0;
  run_.back()->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
  vcpus_.push_back(std::move(vcpu));
}

// The reference VMM's, because a hand-over needs the same CPUID on both sides.
void FloorVm::SetCpuid(int index, int count) {
  const auto cpuid =
      DefaultCpuid(*OpenRealKvm(), static_cast<uint32_t>(index), static_cast<uint32_t>(count));
  if (!cpuid.ok()) FloorDie("CPUID");
  FLOOR_CALL(vcpus_[index], KVM_SET_CPUID2, cpuid->data());
}

// The XSAVE area, and of the MSR index list those that can be read and written back.
void FloorVm::FindStateSizes() {
  const long xsave2 = FLOOR_CALL(vm_, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  xsave2_ = xsave2 > static_cast<long>(sizeof(kvm_xsave));
  if (xsave2 > static_cast<long>(kFloorMaxXsave)) FloorDie("XSAVE area larger than expected");
  MsrList list = {};
  list.count = std::size(list.indices);
  FLOOR_CALL(kvm_, KVM_GET_MSR_INDEX_LIST, &list);
  const auto one = std::make_unique<FloorMsrs>();
  one->count = 1;
  const int fd = vcpus_[0].borrow().raw();
  for (uint32_t i = 0; i < list.count && msrs_.size() < kFloorMaxMsrs; ++i) {
    const uint32_t index = one->entries[0].index = list.indices[i];
    if (index != kMsrTsc && index != kMsrTscAdjust && ioctl(fd, KVM_GET_MSRS, one.get()) == 1 &&
        ioctl(fd, KVM_SET_MSRS, one.get()) == 1) {
      msrs_.push_back(index);
    }
  }
}

void FloorVm::SetSlots(void* hva, uint64_t size) {
  const auto base = reinterpret_cast<uint64_t>(hva);
  const uint64_t below = std::min(size, kHoleStart);
  kvm_userspace_memory_region low = {
      .slot = 0, .guest_phys_addr = 0, .memory_size = below, .userspace_addr = base};
  FLOOR_CALL(vm_, KVM_SET_USER_MEMORY_REGION, &low);
  if (size == below) return;
  kvm_userspace_memory_region high = {.slot = 1,
                                      .guest_phys_addr = kHoleEnd,
                                      .memory_size = size - below,
                                      .userspace_addr = base + below};
  FLOOR_CALL(vm_, KVM_SET_USER_MEMORY_REGION, &high);
}

void FloorVm::Run(int vcpu) {
  if (ioctl(vcpus_[vcpu].borrow().raw(), KVM_RUN, 0) == 0) {
    fprintf(stderr, "floor: vCPU %d left the guest, exit reason %u\n", vcpu,
            run_[vcpu]->exit_reason);
    _exit(1);
  }
  // EAGAIN: a halted vCPU that has just been initialised.
  if (errno != EINTR && errno != EAGAIN) FloorDie("KVM_RUN");
}

void FloorVm::Get(int vcpu, FloorVcpuState& state) {
  const UniqueFd& fd = vcpus_[vcpu];
  const kvm_sync_regs& run = run_[vcpu]->s.regs;
  FLOOR_CALL(fd, KVM_GET_MP_STATE, &state.mp_state);
  state.regs = run.regs;
  state.sregs = run.sregs;
  state.events = run.events;
  FLOOR_CALL(fd, xsave2_ ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state.xsave);
  FLOOR_CALL(fd, KVM_GET_XCRS, &state.xcrs);
  state.msrs.count = static_cast<uint32_t>(msrs_.size());
  for (size_t i = 0; i < msrs_.size(); ++i) state.msrs.entries[i].index = msrs_[i];
  if (FLOOR_CALL(fd, KVM_GET_MSRS, &state.msrs) != static_cast<long>(msrs_.size())) {
    FloorDie("KVM_GET_MSRS left some out");
  }
  FLOOR_CALL(fd, KVM_GET_LAPIC, &state.lapic);
  FLOOR_CALL(fd, KVM_GET_DEBUGREGS, &state.debugregs);
  kvm_device_attr offset = TscOffset(&state.tsc_offset);
  FLOOR_CALL(fd, KVM_GET_DEVICE_ATTR, &offset);
}

void FloorVm::Set(int vcpu, const FloorVcpuState& state) {
  const UniqueFd& fd = vcpus_[vcpu];
  // Before the LAPIC: they say whether it is an x2APIC.
  FLOOR_CALL(fd, KVM_SET_SREGS, &state.sregs);
  FLOOR_CALL(fd, KVM_SET_XCRS, &state.xcrs);
  FLOOR_CALL(fd, KVM_SET_XSAVE, state.xsave);
  kvm_device_attr offset = TscOffset(&state.tsc_offset);
  FLOOR_CALL(fd, KVM_SET_DEVICE_ATTR, &offset);
  FLOOR_CALL(fd, KVM_SET_LAPIC, &state.lapic);
  // After the LAPIC, whose mode decides whether TSC_DEADLINE is taken.
  if (FLOOR_CALL(fd, KVM_SET_MSRS, &state.msrs) != state.msrs.count) {
    FloorDie("KVM_SET_MSRS left some out");
  }
  FLOOR_CALL(fd, KVM_SET_MP_STATE, &state.mp_state);
  FLOOR_CALL(fd, KVM_SET_DEBUGREGS, &state.debugregs);
  // Saves two calls: the first KVM_RUN takes these from kvm_run.
  run_[vcpu]->s.regs.regs = state.regs;
  run_[vcpu]->s.regs.events = state.events;
  run_[vcpu]->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS;
}

void FloorVm::Get(FloorVmState& state) {
  for (uint32_t i = 0; i < std::size(state.irqchip); ++i) {
    state.irqchip[i].chip_id = i;
    FLOOR_CALL(vm_, KVM_GET_IRQCHIP, &state.irqchip[i]);
  }
  FLOOR_CALL(vm_, KVM_GET_PIT2, &state.pit);
  state.clock = {};
  FLOOR_CALL(vm_, KVM_GET_CLOCK, &state.clock);
}

void FloorVm::Set(const FloorVmState& state) {
  for (const kvm_irqchip& chip : state.irqchip) FLOOR_CALL(vm_, KVM_SET_IRQCHIP, &chip);
  FLOOR_CALL(vm_, KVM_SET_PIT2, &state.pit);
  kvm_clock_data clock = state.clock;
  // With the wall clock's time of the reading, the kernel adds what passed since then.
  clock.flags &= KVM_CLOCK_REALTIME;
  FLOOR_CALL(vm_, KVM_SET_CLOCK, &clock);
}

}  // namespace rehome::bench
