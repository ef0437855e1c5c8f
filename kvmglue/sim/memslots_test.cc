// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memslots.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

using Region = kvm_userspace_memory_region2;

constexpr uint64_t kMemoryBytes = 0x10000;

// The rows that were probed on Linux 6.18, a default VM, and in that order.
class MemslotsTest : public ::testing::Test {
 protected:
  int Set(const Region& region) { return kernel_.TrySetRegion(vm_.borrow(), region); }

  // A slot of the guest_memfd.
  Region Bound(uint32_t slot, uint64_t gpa, uint64_t size, uint64_t offset = 0) {
    return {.slot = slot,
            .flags = KVM_MEM_GUEST_MEMFD,
            .guest_phys_addr = gpa,
            .memory_size = size,
            .userspace_addr = pages_.address(),
            .guest_memfd_offset = offset,
            .guest_memfd = static_cast<uint32_t>(memory_.borrow().raw())};
  }
  Region Plain(uint32_t slot, uint64_t gpa, uint64_t size, uint32_t flags = 0) {
    return {.slot = slot,
            .flags = flags,
            .guest_phys_addr = gpa,
            .memory_size = size,
            .userspace_addr = pages_.address()};
  }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kDefault);
  UniqueFd memory_ = kernel_.CreateGuestMemfd(vm_.borrow(), kMemoryBytes, 3);
  HostPages pages_{0x40000};
};

TEST_F(MemslotsTest, BindingAGuestMemfdWorks) { EXPECT_EQ(Set(Bound(0, 0, 0x8000)), 0); }

TEST_F(MemslotsTest, NoArgumentIsEfault) {
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_SET_USER_MEMORY_REGION2, 0ul), -EFAULT);
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_SET_USER_MEMORY_REGION, 0ul), -EFAULT);
}

TEST_F(MemslotsTest, GuestMemfdOfAnotherVmIsEinval) {
  const UniqueFd other = kernel_.CreateVm(VmType::kDefault);
  EXPECT_EQ(kernel_.TrySetRegion(other.borrow(), Bound(0, 0, 0x1000)), -EINVAL);
}

TEST_F(MemslotsTest, ClosedFdIsEbadf) {
  Region region = Bound(0, 0, 0x1000);
  region.guest_memfd = 999;
  EXPECT_EQ(Set(region), -EBADF);
}

TEST_F(MemslotsTest, FdThatIsNoGuestMemfdIsEinval) {
  Region region = Bound(0, 0, 0x1000);
  for (const BorrowedFd fd : {kernel_.kvm(), vm_.borrow(), BorrowedFd(0)}) {
    region.guest_memfd = static_cast<uint32_t>(fd.raw());
    EXPECT_EQ(Set(region), -EINVAL);
  }
}

TEST_F(MemslotsTest, MisalignedOffsetIsEinval) {
  EXPECT_EQ(Set(Bound(0, 0, 0x1000, 0x800)), -EINVAL);
}

TEST_F(MemslotsTest, RangeBeyondTheEndOfTheFileIsEinval) {
  EXPECT_EQ(Set(Bound(0, 0, 0x1000, kMemoryBytes)), -EINVAL);
  EXPECT_EQ(Set(Bound(0, 0, kMemoryBytes, 0x1000)), -EINVAL);
  EXPECT_EQ(Set(Bound(0, 0, 0x2000, ~uint64_t{0xfff})), -EINVAL);
}

TEST_F(MemslotsTest, DirtyLogOrReadOnlyWithGuestMemfdIsEinval) {
  for (const uint32_t flag : {KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY}) {
    Region region = Bound(0, 0, 0x1000);
    region.flags |= flag;
    EXPECT_EQ(Set(region), -EINVAL);
  }
}

TEST_F(MemslotsTest, DirtyLogAndReadOnlyWithoutGuestMemfdWork) {
  EXPECT_EQ(Set(Plain(0, 0, 0x1000, KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)), 0);
}

TEST_F(MemslotsTest, UnknownFlagIsEinval) { EXPECT_EQ(Set(Plain(0, 0, 0x1000, 1u << 3)), -EINVAL); }

TEST_F(MemslotsTest, OverlapInTheSameFileIsEinvalAndDisjointRangesWork) {
  ASSERT_EQ(Set(Bound(0, 0, 0x8000)), 0);
  EXPECT_EQ(Set(Bound(1, 0x100000, 0x1000, 0x7000)), -EINVAL);
  EXPECT_EQ(Set(Bound(1, 0x100000, 0x1000, 0x8000)), 0);
}

TEST_F(MemslotsTest, TwoLinksOfOneInodeMayOverlap) {
  // Exclusivity is per file; userspace has to refuse this by inode.
  const UniqueFd other = kernel_.CreateVm(VmType::kDefault);
  const UniqueFd first = kernel_.Link(other.borrow(), memory_.borrow());
  const UniqueFd second = kernel_.Link(other.borrow(), memory_.borrow());
  EXPECT_EQ(kernel_.Bind(other.borrow(), 0, 0, 0x1000, first.borrow()), 0);
  EXPECT_EQ(kernel_.Bind(other.borrow(), 1, 0x1000, 0x1000, second.borrow()), 0);
}

TEST_F(MemslotsTest, GpaOverlapIsEexist) {
  ASSERT_EQ(Set(Bound(0, 0, 0x8000)), 0);
  EXPECT_EQ(Set(Bound(2, 0x4000, 0x1000, 0x9000)), -EEXIST);
  EXPECT_EQ(Set(Plain(2, 0x7000, 0x2000)), -EEXIST);
  EXPECT_EQ(Set(Plain(2, 0x8000, 0x2000)), 0);
}

TEST_F(MemslotsTest, AddressSpacesDoNotOverlap) {
  ASSERT_EQ(Set(Plain(0, 0, 0x1000)), 0);
  EXPECT_EQ(Set(Plain(1 << 16, 0, 0x1000)), 0);
}

TEST_F(MemslotsTest, ExistingGuestMemfdSlotIsImmutable) {
  ASSERT_EQ(Set(Bound(0, 0, 0x8000)), 0);
  EXPECT_EQ(Set(Bound(0, 0, 0x8000)), -EINVAL) << "identical";
  Region region = Bound(0, 0, 0x8000);
  region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
  EXPECT_EQ(Set(region), -EINVAL) << "flag toggled";
  EXPECT_EQ(Set(Bound(0, 0x40000, 0x8000)), -EINVAL) << "moved";
  EXPECT_EQ(Set(Plain(0, 0, 0x8000)), -EINVAL) << "guest_memfd dropped";
  EXPECT_EQ(Set(Bound(0, 0, 0x4000)), -EINVAL) << "shrunk";
}

TEST_F(MemslotsTest, OlderIoctlRefusesTheGuestMemfdFlag) {
  kvm_userspace_memory_region region = {.slot = 0,
                                        .flags = static_cast<uint32_t>(KVM_MEM_GUEST_MEMFD),
                                        .guest_phys_addr = 0,
                                        .memory_size = 0x1000,
                                        .userspace_addr = pages_.address()};
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_SET_USER_MEMORY_REGION, &region), -EINVAL);
  region.flags = 0;
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_SET_USER_MEMORY_REGION, &region), 0);
}

TEST_F(MemslotsTest, DeletingWorksOnce) {
  ASSERT_EQ(Set(Bound(1, 0x100000, 0x1000)), 0);
  EXPECT_EQ(Set({.slot = 1, .guest_phys_addr = 0x100000}), 0);
  EXPECT_EQ(Set({.slot = 1, .guest_phys_addr = 0x100000}), -EINVAL);
  EXPECT_EQ(Set(Bound(1, 0x200000, 0x1000)), 0) << "file range and slot are free again";
}

TEST_F(MemslotsTest, OrdinarySlotMayMoveAndToggleDirtyLogging) {
  ASSERT_EQ(Set(Plain(0, 0, 0x1000)), 0);
  EXPECT_EQ(Set(Plain(0, 0, 0x1000)), 0) << "identical";
  EXPECT_EQ(Set(Plain(0, 0x5000, 0x1000)), 0) << "moved";
  EXPECT_EQ(Set(Plain(0, 0x5000, 0x1000, KVM_MEM_LOG_DIRTY_PAGES)), 0) << "flag toggled";
  EXPECT_EQ(Set(Plain(0, 0x5000, 0x2000)), -EINVAL) << "size";
  EXPECT_EQ(Set(Plain(0, 0x5000, 0x1000, KVM_MEM_READONLY)), -EINVAL) << "read-only";
  Region region = Plain(0, 0x5000, 0x1000);
  region.userspace_addr += 0x1000;
  EXPECT_EQ(Set(region), -EINVAL) << "userspace_addr";
  ASSERT_EQ(Set(Plain(1, 0x10000, 0x1000)), 0);
  EXPECT_EQ(Set(Plain(0, 0x10000, 0x1000)), -EEXIST) << "moved onto another";
}

TEST_F(MemslotsTest, MalformedRegionsAreEinval) {
  EXPECT_EQ(Set(Plain(0, 0x800, 0x1000)), -EINVAL);
  EXPECT_EQ(Set(Plain(0, 0, 0x800)), -EINVAL);
  EXPECT_EQ(Set(Plain(0, ~uint64_t{0xfff}, 0x2000)), -EINVAL);
  EXPECT_EQ(Set(Plain(256, 0, 0x1000)), -EINVAL) << "no such slot";
  EXPECT_EQ(Set(Plain(2 << 16, 0, 0x1000)), -EINVAL) << "no such address space";
  Region region = Plain(0, 0, 0x1000);
  region.userspace_addr += 8;
  EXPECT_EQ(Set(region), -EINVAL);
}

TEST_F(MemslotsTest, PrivateMemoryLeavesNoSecondAddressSpace) {
  for (const VmType type : {VmType::kSwProtected, VmType::kSnp, VmType::kTdx}) {
    const UniqueFd vm = kernel_.CreateVm(type);
    EXPECT_EQ(kernel_.TrySetRegion(vm.borrow(), Plain(1 << 16, 0, 0x1000)), -EINVAL);
    EXPECT_EQ(kernel_.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE), 1);
  }
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE), 2);
}

TEST_F(MemslotsTest, FailedCallLeavesTheSlotsAsTheyWere) {
  const UniqueFd vcpu = kernel_.CreateVcpu(vm_.borrow());
  ASSERT_EQ(Set(Plain(0, 0, 0x1000)), 0);
  pages_.word(0) = 42;
  EXPECT_EQ(Set(Plain(1, 0, 0x1000)), -EEXIST);
  EXPECT_EQ(Set(Plain(0, 0, 0x2000)), -EINVAL);
  EXPECT_EQ(kernel_.Run(vcpu.borrow(), Program::kLoad, 0).regs.rcx, 42u);
}

}  // namespace
}  // namespace rehome::sim
