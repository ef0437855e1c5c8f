// SPDX-License-Identifier: Apache-2.0
//
// Private memory of one VM: attributes, faults, holes.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

void ExpectPrivateFault(const Ran& ran, uint64_t gpa) {
  EXPECT_EQ(ran.result, -EFAULT);
  EXPECT_EQ(ran.exit_reason, static_cast<uint32_t>(KVM_EXIT_MEMORY_FAULT));
  EXPECT_EQ(ran.fault.gpa, gpa);
  EXPECT_EQ(ran.fault.size, kPage);
  EXPECT_EQ(ran.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

void BadRequestsAreEinval(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(VmType::kSwProtected);
  const auto set = [&](kvm_memory_attributes request) {
    return bench.Call(vm.borrow(), KVM_SET_MEMORY_ATTRIBUTES, &request);
  };
  const uint64_t is_private = KVM_MEMORY_ATTRIBUTE_PRIVATE;
  EXPECT_EQ(set({.address = 0, .size = kPage, .attributes = is_private, .flags = 1}), -EINVAL);
  EXPECT_EQ(set({.address = 0, .size = kPage, .attributes = 1}), -EINVAL);
  EXPECT_EQ(set({.address = 8, .size = kPage, .attributes = is_private}), -EINVAL);
  EXPECT_EQ(set({.address = 0, .size = 8, .attributes = is_private}), -EINVAL);
  EXPECT_EQ(set({.address = 0, .size = 0, .attributes = is_private}), -EINVAL);
  EXPECT_EQ(set({.address = ~0ull << 12, .size = 2 * kPage, .attributes = is_private}), -EINVAL);
  EXPECT_EQ(set({.address = 0, .size = kPage, .attributes = is_private}), 0);
}

void PrivateAndSharedAreTwoMemories(Bench& bench) {
  Guest guest = MakeSource(bench);
  EXPECT_EQ(guest.shared->word(0), 0u) << "the host sees nothing of it";
  ASSERT_EQ(bench.SetPrivate(guest.vm.borrow(), kMemoryGpa, kPage, false), 0);
  EXPECT_EQ(guest.Load(kMemoryGpa).value, 0u) << "shared, it is the host's page";
  EXPECT_TRUE(guest.Store(kMemoryGpa, 7).Halted());
  EXPECT_EQ(guest.shared->word(0), 7u);
  ASSERT_EQ(bench.SetPrivate(guest.vm.borrow(), kMemoryGpa, kPage, true), 0);
  EXPECT_EQ(guest.Load(kMemoryGpa).value, kSecret) << "private again, it is as it was";
}

void PrivateWithoutASlotFaults(Bench& bench) {
  Guest guest = MakeSource(bench);
  constexpr uint64_t kNowhere = kMemoryGpa + kMemoryBytes + 16 * kPage;
  ASSERT_EQ(bench.SetPrivate(guest.vm.borrow(), kNowhere, kPage, true), 0);
  ExpectPrivateFault(guest.Load(kNowhere), kNowhere);
}

void ClosedFileIsNoMemory(Bench& bench) {
  Guest guest = MakeSource(bench);
  guest.memory.Reset();
  ExpectPrivateFault(guest.Load(kMemoryGpa), kMemoryGpa);
}

void AHoleReadsZero(Bench& bench) {
  Guest guest = MakeSource(bench);
  EXPECT_TRUE(guest.Store(kMemoryGpa + kPage, 7).Halted());
  EXPECT_EQ(PunchHole(guest.memory.borrow(), 0, kPage), 0);
  EXPECT_EQ(guest.Load(kMemoryGpa).value, 0u);
  EXPECT_EQ(guest.Load(kMemoryGpa + kPage).value, 7u) << "the next page is not touched";
}

const Rule kRules[] = {
    {"attributes.bad-request-einval",
     "D kvm_main.c kvm_vm_ioctl_set_mem_attributes",
     "flags, unknown attributes, parts of a page, nothing, or a range that wraps are EINVAL",
     {Feature::kPrivateMemory},
     BadRequestsAreEinval},
    {"attributes.two-memories",
     "private_mem_conversions_test.c",
     "private and shared memory at one guest address are two memories",
     {Feature::kPrivateMemory},
     PrivateAndSharedAreTwoMemories},
    {"attributes.no-slot-faults",
     "private_mem_kvm_exits_test.c",
     "a private access where no slot is leaves KVM_RUN with EFAULT and KVM_EXIT_MEMORY_FAULT",
     {Feature::kPrivateMemory},
     PrivateWithoutASlotFaults},
    {"attributes.closed-file-faults",
     "T guest_memfd.c kvm_gmem_release",
     "closing the last descriptor unbinds: a private access then faults",
     {Feature::kPrivateMemory},
     ClosedFileIsNoMemory},
    {"attributes.hole-reads-zero",
     "private_mem_conversions_test.c; probed on 6.18.44",
     "after PUNCH_HOLE the guest reads 0 there, also where it had the page mapped",
     {Feature::kPrivateMemory},
     AHoleReadsZero},
};

}  // namespace

std::span<const Rule> AttributeRules() { return kRules; }

}  // namespace rehome::conformance
