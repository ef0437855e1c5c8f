// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_attributes.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

class MemoryAttributesTest : public ::testing::Test {
 protected:
  int Set(BorrowedFd vm, kvm_memory_attributes attributes) {
    return static_cast<int>(kernel_.Call(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes));
  }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kSwProtected);
};

TEST_F(MemoryAttributesTest, PrivateCanBeSetAndCleared) {
  EXPECT_EQ(Set(vm_.borrow(), {.address = 0, .size = 0x1000, .attributes = 8}), 0);
  EXPECT_EQ(Set(vm_.borrow(), {.address = 0, .size = 0x1000, .attributes = 0}), 0);
}

TEST_F(MemoryAttributesTest, KernelWithoutPrivateMemoryGivesEnotty) {
  TestKernel stock({.vm_types = {VmType::kDefault, VmType::kSev}});
  const UniqueFd vm = stock.CreateVm(VmType::kDefault);
  EXPECT_EQ(stock.SetPrivate(vm.borrow(), 0, 0x1000, true), -ENOTTY);
  EXPECT_EQ(stock.Call(stock.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES), 0);
}

TEST_F(MemoryAttributesTest, VmWithoutPrivateMemoryGivesEinval) {
  const UniqueFd vm = kernel_.CreateVm(VmType::kDefault);
  EXPECT_EQ(kernel_.SetPrivate(vm.borrow(), 0, 0x1000, true), -EINVAL);
  EXPECT_EQ(kernel_.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES), 0);
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES), 8);
}

TEST_F(MemoryAttributesTest, MalformedRequestsAreEinval) {
  const BorrowedFd vm = vm_.borrow();
  EXPECT_EQ(Set(vm, {.address = 0, .size = 0x1000, .attributes = 8, .flags = 1}), -EINVAL);
  EXPECT_EQ(Set(vm, {.address = 0, .size = 0x1000, .attributes = 16}), -EINVAL);
  EXPECT_EQ(Set(vm, {.address = 0, .size = 0, .attributes = 8}), -EINVAL);
  EXPECT_EQ(Set(vm, {.address = 0x800, .size = 0x1000, .attributes = 8}), -EINVAL);
  EXPECT_EQ(Set(vm, {.address = 0, .size = 0x800, .attributes = 8}), -EINVAL);
  EXPECT_EQ(Set(vm, {.address = ~uint64_t{0xfff}, .size = 0x2000, .attributes = 8}), -EINVAL);
  EXPECT_EQ(kernel_.Call(vm, KVM_SET_MEMORY_ATTRIBUTES, 0ul), -EFAULT);
}

TEST_F(MemoryAttributesTest, TooManyRangesAreEnomemAndNothingChanges) {
  for (uint64_t i = 0; i < kMaxAttributeRanges; ++i) {
    ASSERT_EQ(kernel_.SetPrivate(vm_.borrow(), 2 * i * 0x1000, 0x1000, true), 0);
  }
  const uint64_t next = 2 * kMaxAttributeRanges * 0x1000;
  EXPECT_EQ(kernel_.SetPrivate(vm_.borrow(), next, 0x1000, true), -ENOMEM);
  EXPECT_EQ(kernel_.SetPrivate(vm_.borrow(), 0x1000, 0x1000, true), 0) << "joining makes room";
  EXPECT_EQ(kernel_.SetPrivate(vm_.borrow(), next, 0x1000, true), 0);
}

TEST_F(MemoryAttributesTest, GuestSeesPrivateAndSharedMemoryAtOneGpa) {
  const Guest guest = MakeGuest(kernel_, VmType::kSwProtected);
  const BorrowedFd vcpu = guest.vcpus[0].borrow();
  HostPages pages(kGuestSize);
  ASSERT_EQ(kernel_.TrySetRegion(guest.vm.borrow(), {.slot = 0}), 0);
  ASSERT_EQ(
      kernel_.TrySetRegion(guest.vm.borrow(),
                           {.slot = 0,
                            .flags = KVM_MEM_GUEST_MEMFD,
                            .guest_phys_addr = kGuestGpa,
                            .memory_size = kGuestSize,
                            .userspace_addr = pages.address(),
                            .guest_memfd = static_cast<uint32_t>(guest.memory.borrow().raw())}),
      0);
  EXPECT_EQ(kernel_.Run(vcpu, Program::kStore, kGuestGpa, 1).result, 0);
  EXPECT_EQ(pages.word(0), 0u) << "private memory is not in userspace_addr";
  ASSERT_EQ(kernel_.SetPrivate(guest.vm.borrow(), kGuestGpa, 0x1000, false), 0);
  pages.word(0) = 2;
  EXPECT_EQ(kernel_.Run(vcpu, Program::kLoad, kGuestGpa).regs.rcx, 2u);
  ASSERT_EQ(kernel_.SetPrivate(guest.vm.borrow(), kGuestGpa, 0x1000, true), 0);
  EXPECT_EQ(kernel_.Run(vcpu, Program::kLoad, kGuestGpa).regs.rcx, 1u);
}

}  // namespace
}  // namespace rehome::sim
