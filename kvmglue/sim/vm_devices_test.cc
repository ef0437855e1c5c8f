// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vm_devices.h"

#include <gtest/gtest.h>
#include <time.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

class VmDevicesTest : public ::testing::Test {
 protected:
  long Call(unsigned long request, void* argument) {
    return kernel_.Call(vm_.borrow(), request, argument);
  }
  long Number(unsigned long request, unsigned long value) {
    return kernel_.Call(vm_.borrow(), request, value);
  }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kDefault);
  kvm_irqchip chip_ = {};
  kvm_pit_state2 pit_ = {};
  kvm_pit_config config_ = {};
};

TEST_F(VmDevicesTest, NothingIsThereWithoutIrqchipAndPit) {
  EXPECT_EQ(Call(KVM_GET_IRQCHIP, &chip_), -ENXIO);
  EXPECT_EQ(Call(KVM_SET_IRQCHIP, &chip_), -ENXIO);
  EXPECT_EQ(Call(KVM_GET_PIT2, &pit_), -ENXIO);
  EXPECT_EQ(Call(KVM_SET_PIT2, &pit_), -ENXIO);
  EXPECT_EQ(Call(KVM_CREATE_PIT2, &config_), -ENOENT);
}

TEST_F(VmDevicesTest, EachIsCreatedOnceAndBeforeTheVcpus) {
  EXPECT_EQ(Number(KVM_CREATE_IRQCHIP, 0), 0);
  EXPECT_EQ(Number(KVM_CREATE_IRQCHIP, 0), -EEXIST);
  EXPECT_EQ(Call(KVM_CREATE_PIT2, &config_), 0);
  EXPECT_EQ(Call(KVM_CREATE_PIT2, &config_), -EEXIST);
  EXPECT_EQ(Call(KVM_CREATE_PIT2, nullptr), -EFAULT);
  vm_ = kernel_.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel_.CreateVcpu(vm_.borrow());
  EXPECT_EQ(Number(KVM_CREATE_IRQCHIP, 0), -EINVAL);
}

TEST_F(VmDevicesTest, StateIsReadBackAsWritten) {
  ASSERT_EQ(Number(KVM_CREATE_IRQCHIP, 0), 0);
  ASSERT_EQ(Call(KVM_CREATE_PIT2, &config_), 0);
  for (uint32_t id = 0; id < 3; ++id) {
    chip_.chip_id = id;
    chip_.chip.dummy[7] = static_cast<char>(id + 1);
    ASSERT_EQ(Call(KVM_SET_IRQCHIP, &chip_), 0);
  }
  for (uint32_t id = 0; id < 3; ++id) {
    kvm_irqchip back = {};
    back.chip_id = id;
    ASSERT_EQ(Call(KVM_GET_IRQCHIP, &back), 0);
    EXPECT_EQ(back.chip.dummy[7], static_cast<char>(id + 1));
  }
  chip_.chip_id = 3;
  EXPECT_EQ(Call(KVM_GET_IRQCHIP, &chip_), -EINVAL);
  pit_.channels[2].count = 1193;
  ASSERT_EQ(Call(KVM_SET_PIT2, &pit_), 0);
  kvm_pit_state2 back = {};
  ASSERT_EQ(Call(KVM_GET_PIT2, &back), 0);
  EXPECT_EQ(back.channels[2].count, 1193u);
}

TEST_F(VmDevicesTest, AddressesAreChecked) {
  EXPECT_EQ(Number(KVM_SET_TSS_ADDR, 0xfffbd000), 0);
  EXPECT_EQ(Number(KVM_SET_TSS_ADDR, 0xffffe000), -EINVAL);
  uint64_t identity = 0xfffbc000;
  EXPECT_EQ(Call(KVM_SET_IDENTITY_MAP_ADDR, &identity), 0);
  EXPECT_EQ(Call(KVM_SET_IDENTITY_MAP_ADDR, nullptr), -EFAULT);
  const UniqueFd vcpu = kernel_.CreateVcpu(vm_.borrow());
  EXPECT_EQ(Call(KVM_SET_IDENTITY_MAP_ADDR, &identity), -EINVAL);
}

TEST_F(VmDevicesTest, ClockRunsOnFromWhereItWasSet) {
  kvm_clock_data clock = {};
  clock.clock = 1'000'000'000'000;
  ASSERT_EQ(Call(KVM_SET_CLOCK, &clock), 0);
  kvm_clock_data now = {};
  ASSERT_EQ(Call(KVM_GET_CLOCK, &now), 0);
  EXPECT_GE(now.clock, clock.clock);
  EXPECT_LT(now.clock, clock.clock + 10'000'000'000);
  EXPECT_EQ(now.flags, uint32_t{KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC});
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK), long{now.flags});
}

TEST_F(VmDevicesTest, ClockSetWithRealTimeAddsWhatHasPassed) {
  timespec real;
  clock_gettime(CLOCK_REALTIME, &real);
  kvm_clock_data clock = {};
  clock.clock = 5'000'000'000;
  clock.flags = KVM_CLOCK_REALTIME;
  constexpr uint64_t kPassed = 100'000'000'000;
  clock.realtime = static_cast<uint64_t>(real.tv_sec) * 1'000'000'000 - kPassed;
  ASSERT_EQ(Call(KVM_SET_CLOCK, &clock), 0);
  kvm_clock_data now = {};
  ASSERT_EQ(Call(KVM_GET_CLOCK, &now), 0);
  EXPECT_GE(now.clock, clock.clock + kPassed);
  // A real time of the future does not set the clock back.
  clock.realtime += 2 * kPassed + 10'000'000'000;
  ASSERT_EQ(Call(KVM_SET_CLOCK, &clock), 0);
  ASSERT_EQ(Call(KVM_GET_CLOCK, &now), 0);
  EXPECT_GE(now.clock, clock.clock);
}

TEST_F(VmDevicesTest, OtherClockFlagsAreEinval) {
  kvm_clock_data clock = {};
  clock.flags = KVM_CLOCK_HOST_TSC;
  EXPECT_EQ(Call(KVM_SET_CLOCK, &clock), -EINVAL);
  EXPECT_EQ(Call(KVM_SET_CLOCK, nullptr), -EFAULT);
}

TEST_F(VmDevicesTest, ClockAndOffsetSurviveInTheTargetOfAMove) {
  // What a VMM does: the kernel moves none of this.
  kvm_clock_data saved = {};
  ASSERT_EQ(Call(KVM_GET_CLOCK, &saved), 0);
  const UniqueFd target = kernel_.CreateVm(VmType::kDefault);
  saved.flags = KVM_CLOCK_REALTIME;
  ASSERT_EQ(kernel_.Call(target.borrow(), KVM_SET_CLOCK, &saved), 0);
  kvm_clock_data here = {}, there = {};
  ASSERT_EQ(Call(KVM_GET_CLOCK, &here), 0);
  ASSERT_EQ(kernel_.Call(target.borrow(), KVM_GET_CLOCK, &there), 0);
  EXPECT_GE(there.clock, saved.clock) << "never backwards";
  EXPECT_LT(there.clock - here.clock + 1'000'000'000, 2'000'000'000u);
}

}  // namespace
}  // namespace rehome::sim
