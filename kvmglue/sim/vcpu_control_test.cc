// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_control.h"

#include <gtest/gtest.h>
#include <x86intrin.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

// The C structures end in flexible arrays.
struct Msrs {
  uint32_t count = 0;
  uint32_t pad = 0;
  kvm_msr_entry entries[40] = {};
};
struct Cpuid {
  uint32_t count = 0;
  uint32_t padding = 0;
  kvm_cpuid_entry2 entries[300] = {};
};

class VcpuControlTest : public ::testing::Test {
 protected:
  VcpuControlTest() { Recreate(/*irqchip=*/true); }

  void Recreate(bool irqchip) {
    vm_ = kernel_.CreateVm(VmType::kDefault);
    if (irqchip) {
      EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CREATE_IRQCHIP, 0ul), 0);
    }
    vcpu_ = kernel_.CreateVcpu(vm_.borrow());
  }
  long Call(unsigned long request, void* argument) {
    return kernel_.Call(vcpu_.borrow(), request, argument);
  }
  long SetMsr(uint32_t index, uint64_t value) {
    Msrs msrs = {.count = 1};
    msrs.entries[0] = {.index = index, .data = value};
    return Call(KVM_SET_MSRS, &msrs);
  }
  uint64_t GetMsr(uint32_t index) {
    Msrs msrs = {.count = 1};
    msrs.entries[0].index = index;
    EXPECT_EQ(Call(KVM_GET_MSRS, &msrs), 1);
    return msrs.entries[0].data;
  }
  long TscOffset(unsigned long request, int64_t* offset, uint64_t attr = KVM_VCPU_TSC_OFFSET) {
    kvm_device_attr attribute = {.flags = 0,
                                 .group = KVM_VCPU_TSC_CTRL,
                                 .attr = attr,
                                 .addr = reinterpret_cast<uint64_t>(offset)};
    return Call(request, &attribute);
  }

  TestKernel kernel_;
  UniqueFd vm_, vcpu_;
};

// ---- MSRs

TEST_F(VcpuControlTest, EveryListedMsrIsReadBackAsWritten) {
  struct {
    uint32_t count = 100;
    uint32_t indices[100] = {};
  } list;
  ASSERT_EQ(kernel_.Call(kernel_.kvm(), KVM_GET_MSR_INDEX_LIST, &list), 0);
  ASSERT_GT(list.count, 10u);
  for (uint32_t i = 0; i < list.count; ++i) {
    if (list.indices[i] == 0x10) continue;  // the TSC runs
    EXPECT_EQ(SetMsr(list.indices[i], 0x1000 + i), 1);
    EXPECT_EQ(GetMsr(list.indices[i]), 0x1000u + i) << std::hex << list.indices[i];
  }
}

TEST_F(VcpuControlTest, MsrsStopAtTheFirstUnknownOne) {
  Msrs msrs = {.count = 3};
  msrs.entries[0].index = 0x277;
  msrs.entries[1].index = 0xdead;
  msrs.entries[2].index = 0x277;
  EXPECT_EQ(Call(KVM_GET_MSRS, &msrs), 1);
  EXPECT_EQ(Call(KVM_SET_MSRS, &msrs), 1);
  EXPECT_EQ(msrs.entries[0].data, 0x0007040600070406u) << "PAT at reset";
}

TEST_F(VcpuControlTest, TooManyMsrsAreE2big) {
  Msrs msrs = {.count = 256};
  EXPECT_EQ(Call(KVM_GET_MSRS, &msrs), -E2BIG);
  EXPECT_EQ(Call(KVM_SET_MSRS, nullptr), -EFAULT);
}

TEST_F(VcpuControlTest, TscMsrAndTscOffsetAreOneThing) {
  ASSERT_EQ(SetMsr(0x10, 0), 1);
  int64_t offset = 0;
  ASSERT_EQ(TscOffset(KVM_GET_DEVICE_ATTR, &offset), 0);
  EXPECT_LT(offset, 0);
  const uint64_t guest = GetMsr(0x10);
  EXPECT_LE(guest, __rdtsc() + static_cast<uint64_t>(offset));
  offset = 1'000;
  ASSERT_EQ(TscOffset(KVM_SET_DEVICE_ATTR, &offset), 0);
  EXPECT_GE(static_cast<int64_t>(GetMsr(0x10) - guest), 0);
}

TEST_F(VcpuControlTest, OnlyTheTscOffsetIsADeviceAttribute) {
  int64_t offset = 0;
  EXPECT_EQ(TscOffset(KVM_HAS_DEVICE_ATTR, &offset), 0);
  EXPECT_EQ(TscOffset(KVM_HAS_DEVICE_ATTR, &offset, 1), -ENXIO);
  EXPECT_EQ(TscOffset(KVM_GET_DEVICE_ATTR, nullptr), -EFAULT);
  kvm_device_attr other = {.flags = 0, .group = 9, .attr = 0, .addr = 0};
  EXPECT_EQ(Call(KVM_SET_DEVICE_ATTR, &other), -ENXIO);
}

// ---- LAPIC, MP_STATE, events

TEST_F(VcpuControlTest, LapicNeedsTheKernelsIrqchip) {
  kvm_lapic_state lapic = {};
  EXPECT_EQ(Call(KVM_GET_LAPIC, &lapic), 0);
  lapic.regs[0x80] = 0x20;
  EXPECT_EQ(Call(KVM_SET_LAPIC, &lapic), 0);
  kvm_lapic_state back = {};
  EXPECT_EQ(Call(KVM_GET_LAPIC, &back), 0);
  EXPECT_EQ(back.regs[0x80], 0x20);
  Recreate(/*irqchip=*/false);
  EXPECT_EQ(Call(KVM_GET_LAPIC, &lapic), -EINVAL);
  EXPECT_EQ(Call(KVM_SET_LAPIC, &lapic), -EINVAL);
}

TEST_F(VcpuControlTest, MpStateIsCheckedAgainstTheIrqchip) {
  kvm_mp_state state = {.mp_state = KVM_MP_STATE_HALTED};
  EXPECT_EQ(Call(KVM_SET_MP_STATE, &state), 0);
  state.mp_state = 99;
  EXPECT_EQ(Call(KVM_SET_MP_STATE, &state), -EINVAL);
  Recreate(/*irqchip=*/false);
  state.mp_state = KVM_MP_STATE_HALTED;
  EXPECT_EQ(Call(KVM_SET_MP_STATE, &state), -EINVAL);
  state.mp_state = KVM_MP_STATE_RUNNABLE;
  EXPECT_EQ(Call(KVM_SET_MP_STATE, &state), 0);
}

TEST_F(VcpuControlTest, EventsAreReadBackAndUnknownFlagsRefused) {
  kvm_vcpu_events events = {};
  events.interrupt.injected = 1;
  events.interrupt.nr = 32;
  events.flags = KVM_VCPUEVENT_VALID_SHADOW;
  ASSERT_EQ(Call(KVM_SET_VCPU_EVENTS, &events), 0);
  kvm_vcpu_events back = {};
  ASSERT_EQ(Call(KVM_GET_VCPU_EVENTS, &back), 0);
  EXPECT_EQ(std::memcmp(&events, &back, sizeof(events)), 0);
  events.flags = 1u << 31;
  EXPECT_EQ(Call(KVM_SET_VCPU_EVENTS, &events), -EINVAL);
}

// ---- CPUID

TEST_F(VcpuControlTest, CpuidIsReadBackAndCannotChangeOnceTheVcpuHasRun) {
  Cpuid cpuid = {.count = 300};
  ASSERT_EQ(kernel_.Call(kernel_.kvm(), KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
  ASSERT_GT(cpuid.count, 5u);
  ASSERT_EQ(Call(KVM_SET_CPUID2, &cpuid), 0);
  Cpuid back = {.count = 300};
  ASSERT_EQ(Call(KVM_GET_CPUID2, &back), 0);
  EXPECT_EQ(back.count, cpuid.count);
  EXPECT_EQ(std::memcmp(back.entries, cpuid.entries, cpuid.count * sizeof(kvm_cpuid_entry2)), 0);

  EXPECT_EQ(kernel_.Run(vcpu_.borrow(), Program::kShutdown).result, 0);
  EXPECT_EQ(Call(KVM_SET_CPUID2, &cpuid), 0) << "the same";
  cpuid.entries[0].eax ^= 1;
  EXPECT_EQ(Call(KVM_SET_CPUID2, &cpuid), -EINVAL);
}

TEST_F(VcpuControlTest, CpuidLengthsAreChecked) {
  Cpuid cpuid = {.count = 257};
  EXPECT_EQ(Call(KVM_SET_CPUID2, &cpuid), -E2BIG);
  cpuid.count = 3;
  ASSERT_EQ(Call(KVM_SET_CPUID2, &cpuid), 0);
  cpuid.count = 2;
  EXPECT_EQ(Call(KVM_GET_CPUID2, &cpuid), -E2BIG);
  EXPECT_EQ(cpuid.count, 3u) << "what is needed";
}

// ---- clocks

TEST_F(VcpuControlTest, KvmclockControlNeedsAKvmclock) {
  EXPECT_EQ(Call(KVM_KVMCLOCK_CTRL, nullptr), -EINVAL);
  ASSERT_EQ(SetMsr(0x4b564d01, 0x1000 | 1), 1);
  EXPECT_EQ(Call(KVM_KVMCLOCK_CTRL, nullptr), 0);
}

TEST_F(VcpuControlTest, TscFrequencyIsTheHostsUnlessSet) {
  EXPECT_GT(Call(KVM_GET_TSC_KHZ, nullptr), 100'000);
  ASSERT_EQ(kernel_.Call(vcpu_.borrow(), KVM_SET_TSC_KHZ, 2'000'000ul), 0);
  EXPECT_EQ(Call(KVM_GET_TSC_KHZ, nullptr), 2'000'000);
}

}  // namespace
}  // namespace rehome::sim
