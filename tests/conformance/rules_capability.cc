// SPDX-License-Identifier: Apache-2.0
//
// What a kernel says of itself, and how much of that can be believed.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

constexpr uint64_t kTypes = 6;  // numbers of VM types that Linux has given

void MoveCapabilityTellsNothing(Bench& bench) {
  EXPECT_EQ(bench.Call(bench.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM), 1);
  const UniqueFd source = bench.CreateVm(VmType::kDefault);
  const UniqueFd target = bench.CreateVm(VmType::kDefault);
  EXPECT_EQ(bench.Move(target.borrow(), source.borrow()), -EINVAL);
  EXPECT_FALSE(bench.IsDead(source.borrow()));
  // Whether there is an operation at all is looked at before the descriptor is.
  const long from_nothing = bench.Move(target.borrow(), BorrowedFd(-1));
  EXPECT_TRUE(from_nothing == -EINVAL || from_nothing == -EBADF) << from_nothing;
}

void TypesAreThoseThatCanBeCreated(Bench& bench) {
  const long mask = bench.Call(bench.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);
  ASSERT_GT(mask, 0);
  for (uint64_t type = 0; type < kTypes; ++type) {
    const UniqueFd vm(static_cast<int>(bench.TryCreateVm(type)));
    EXPECT_EQ(vm.valid(), ((mask >> type) & 1) != 0) << "type " << type;
  }
}

void UnknownTypeIsEinval(Bench& bench) { EXPECT_EQ(bench.TryCreateVm(77), -EINVAL); }

void AttributesCapabilityIsHonest(Bench& bench) {
  const long mask = bench.Call(bench.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES);
  const UniqueFd vm = bench.CreateVm(VmType::kDefault);
  EXPECT_EQ(bench.SetPrivate(vm.borrow(), 0, kPage, true), mask == 0 ? -ENOTTY : -EINVAL);
}

void FlagsCapabilityIsHonest(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(VmType::kDefault);
  const long mask = bench.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
  ASSERT_GE(mask, 1);
  for (uint64_t flag = 1; flag <= 8; flag <<= 1) {
    const UniqueFd memory(static_cast<int>(bench.TryCreateMemory(vm.borrow(), kPage, flag)));
    EXPECT_EQ(memory.valid(), (static_cast<uint64_t>(mask) & flag) != 0) << "flag " << flag;
  }
}

void GuestMemfdIsThere(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  EXPECT_EQ(bench.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD), 1);
  EXPECT_EQ(bench.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY2), 1);
}

const Rule kRules[] = {
    {"capability.move-says-nothing",
     "D x86.c:4252; probed on 6.18.44",
     "KVM_CHECK_EXTENSION(206) is 1 also where MOVE between two VMs can only be EINVAL",
     {},
     MoveCapabilityTellsNothing},
    {"capability.vm-types",
     "api.rst 4.2; probed on 6.18.44",
     "KVM_CAP_VM_TYPES is the mask of the types that KVM_CREATE_VM takes",
     {},
     TypesAreThoseThatCanBeCreated},
    {"capability.unknown-type-einval",
     "api.rst 4.2",
     "an unknown VM type is EINVAL",
     {},
     UnknownTypeIsEinval},
    {"capability.guest-memfd",
     "api.rst 8.41",
     "KVM_CAP_GUEST_MEMFD is 1 on a VM that guest_memfd can be bound to",
     {},
     GuestMemfdIsThere},
    {"capability.attributes-honest",
     "D kvm_main.c; probed on 6.18.44",
     "KVM_SET_MEMORY_ATTRIBUTES is ENOTTY where capability 233 is 0, and on a VM of type default "
     "EINVAL where it is not",
     {},
     AttributesCapabilityIsHonest},
    {"capability.memfd-flags",
     "T guest_memfd.c; probed on 6.18.44",
     "KVM_CAP_GUEST_MEMFD_FLAGS is the mask of the flags that KVM_CREATE_GUEST_MEMFD takes",
     {Feature::kMappableMemory},
     FlagsCapabilityIsHonest},
};

}  // namespace

std::span<const Rule> CapabilityRules() { return kRules; }

}  // namespace rehome::conformance
