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
#include <array>
#include <memory>

namespace rehome::bench {
namespace {

// include/uapi/linux/kvm.h of 6.8 (guest_memfd) and 6.18 (its flags); Debian 12 has 6.1.
struct MemoryRegion2 {
  uint32_t slot;
  uint32_t flags;
  uint64_t guest_phys_addr;
  uint64_t memory_size;
  uint64_t userspace_addr;
  uint64_t guest_memfd_offset;
  uint32_t guest_memfd;
  uint32_t pad1;
  uint64_t pad2[14];
};
struct CreateGuestMemfdArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t reserved[6];
};
// The number of an ioctl holds the size of its argument, and in C++ an empty struct in the header's
// flexible arrays makes these structs larger than the kernel's: 8, 8, 4 and 4096 bytes.
using XsaveArea = std::array<uint8_t, 4096>;
constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveArea);
constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveArea);
constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, XsaveArea);
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, uint64_t);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, uint64_t);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, uint64_t);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, uint64_t);
constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, uint32_t);
constexpr unsigned long kSetUserMemoryRegion2 = _IOW(KVMIO, 0x49, MemoryRegion2);
constexpr unsigned long kCreateGuestMemfd = _IOWR(KVMIO, 0xd4, CreateGuestMemfdArgument);
constexpr uint32_t kMemGuestMemfd = 1u << 2;
constexpr uint64_t kMmap = 1u << 0;
constexpr uint64_t kInitShared = 1u << 1;

constexpr uint64_t kHoleStart = 0xc0000000;
constexpr uint64_t kHoleEnd = 0x100000000;
// As kvmglue/vm.cc: KVM's own slot for the TSS, below the BIOS area.
constexpr unsigned long kTssAddress = 0xfffbd000;

// arch/x86/include/asm/msr-index.h. Both are the TSC by another name, which tsc_offset carries; set
// from a value that was read earlier they would set the clock back.
constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrTscAdjust = 0x3b;

// struct kvm_cpuid2 and struct kvm_msr_list with room.
struct Cpuid {
  uint32_t count;
  uint32_t pad;
  kvm_cpuid_entry2 entries[256];
};
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

void SetTopology(Cpuid& cpuid, int index, int count) {
  for (uint32_t i = 0; i < cpuid.count; ++i) {
    kvm_cpuid_entry2& entry = cpuid.entries[i];
    if (entry.function == 1) {
      entry.ebx = (entry.ebx & 0xffff) | static_cast<uint32_t>(index) << 24 |
                  static_cast<uint32_t>(count) << 16;
    } else if (entry.function == 0xb) {
      entry.edx = static_cast<uint32_t>(index);
    }
  }
}

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
  const long xsave2 = FLOOR_CALL(vm_, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  xsave2_ = xsave2 > 0;
  xsave_size_ = xsave2_ ? static_cast<size_t>(xsave2) : sizeof(XsaveArea);
  if (xsave_size_ > kFloorMaxXsave) FloorDie("XSAVE area larger than expected");
  for (int i = 0; i < vcpu_count; ++i) CreateVcpu(i, vcpu_count);
  FindMsrs();
}

void FloorVm::CreateVcpu(int index, int count) {
  vcpus_.emplace_back(static_cast<int>(FLOOR_CALL(vm_, KVM_CREATE_VCPU, index)));
  const auto size = static_cast<size_t>(FLOOR_CALL(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0));
  void* run = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED,
                   vcpus_.back().borrow().raw(), 0);
  if (run == MAP_FAILED) FloorDie("mmap of kvm_run");
  run_.push_back(static_cast<kvm_run*>(run));
  const auto cpuid = std::make_unique<Cpuid>();
  cpuid->count = std::size(cpuid->entries);
  FLOOR_CALL(kvm_, kGetSupportedCpuid, cpuid.get());
  SetTopology(*cpuid, index, count);
  FLOOR_CALL(vcpus_.back(), kSetCpuid2, cpuid.get());
}

// Of the index list, those that can be read and written back.
void FloorVm::FindMsrs() {
  MsrList list = {};
  list.count = std::size(list.indices);
  FLOOR_CALL(kvm_, kGetMsrIndexList, &list);
  const auto one = std::make_unique<FloorMsrs>();
  one->count = 1;
  const int fd = vcpus_[0].borrow().raw();
  for (uint32_t i = 0; i < list.count && msrs_.size() < kFloorMaxMsrs; ++i) {
    const uint32_t index = one->entries[0].index = list.indices[i];
    if (index != kMsrTsc && index != kMsrTscAdjust && ioctl(fd, kGetMsrs, one.get()) == 1 &&
        ioctl(fd, kSetMsrs, one.get()) == 1) {
      msrs_.push_back(index);
    }
  }
}

UniqueFd FloorVm::CreateGuestMemfd(uint64_t size) {
  CreateGuestMemfdArgument argument = {.size = size, .flags = kMmap | kInitShared};
  return UniqueFd(static_cast<int>(FLOOR_CALL(vm_, kCreateGuestMemfd, &argument)));
}

void FloorVm::SetSlots(void* hva, uint64_t size, BorrowedFd guest_memfd) {
  const auto base = reinterpret_cast<uint64_t>(hva);
  const auto set = [&](uint32_t slot, uint64_t gpa, uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    if (!guest_memfd.valid()) {
      kvm_userspace_memory_region region = {.slot = slot,
                                            .guest_phys_addr = gpa,
                                            .memory_size = bytes,
                                            .userspace_addr = base + offset};
      FLOOR_CALL(vm_, KVM_SET_USER_MEMORY_REGION, &region);
      return;
    }
    MemoryRegion2 region = {.slot = slot,
                            .flags = kMemGuestMemfd,
                            .guest_phys_addr = gpa,
                            .memory_size = bytes,
                            .userspace_addr = base + offset,
                            .guest_memfd_offset = offset,
                            .guest_memfd = static_cast<uint32_t>(guest_memfd.raw())};
    FLOOR_CALL(vm_, kSetUserMemoryRegion2, &region);
  };
  const uint64_t below = std::min(size, kHoleStart);
  set(0, 0, 0, below);
  set(1, kHoleEnd, below, size - below);
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
  // First, because it applies a pending INIT or SIPI to the registers.
  FLOOR_CALL(fd, KVM_GET_MP_STATE, &state.mp_state);
  FLOOR_CALL(fd, KVM_GET_REGS, &state.regs);
  FLOOR_CALL(fd, KVM_GET_SREGS2, &state.sregs);
  FLOOR_CALL(fd, xsave2_ ? kGetXsave2 : kGetXsave, state.xsave);
  FLOOR_CALL(fd, KVM_GET_XCRS, &state.xcrs);
  state.msrs.count = static_cast<uint32_t>(msrs_.size());
  for (size_t i = 0; i < msrs_.size(); ++i) state.msrs.entries[i].index = msrs_[i];
  if (FLOOR_CALL(fd, kGetMsrs, &state.msrs) != static_cast<long>(msrs_.size())) {
    FloorDie("KVM_GET_MSRS left some out");
  }
  FLOOR_CALL(fd, KVM_GET_LAPIC, &state.lapic);
  FLOOR_CALL(fd, KVM_GET_VCPU_EVENTS, &state.events);
  FLOOR_CALL(fd, KVM_GET_DEBUGREGS, &state.debugregs);
  kvm_device_attr offset = TscOffset(&state.tsc_offset);
  FLOOR_CALL(fd, KVM_GET_DEVICE_ATTR, &offset);
}

void FloorVm::Set(int vcpu, const FloorVcpuState& state) {
  const UniqueFd& fd = vcpus_[vcpu];
  FLOOR_CALL(fd, KVM_SET_SREGS2, &state.sregs);
  FLOOR_CALL(fd, KVM_SET_REGS, &state.regs);
  FLOOR_CALL(fd, KVM_SET_XCRS, &state.xcrs);
  FLOOR_CALL(fd, kSetXsave, state.xsave);
  kvm_device_attr offset = TscOffset(&state.tsc_offset);
  FLOOR_CALL(fd, KVM_SET_DEVICE_ATTR, &offset);
  FLOOR_CALL(fd, KVM_SET_LAPIC, &state.lapic);
  // After the LAPIC, whose mode decides whether TSC_DEADLINE is taken.
  if (FLOOR_CALL(fd, kSetMsrs, &state.msrs) != state.msrs.count) {
    FloorDie("KVM_SET_MSRS left some out");
  }
  FLOOR_CALL(fd, KVM_SET_MP_STATE, &state.mp_state);
  FLOOR_CALL(fd, KVM_SET_VCPU_EVENTS, &state.events);
  FLOOR_CALL(fd, KVM_SET_DEBUGREGS, &state.debugregs);
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
