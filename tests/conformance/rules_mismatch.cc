// SPDX-License-Identifier: Apache-2.0
//
// MOVE between VMs that are not equal: EINVAL, and nothing has changed.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

constexpr uint64_t kFarGpa = kMemoryGpa + 64 * kPage;
constexpr uint64_t kHalf = kMemoryBytes / 2;

// A refused MOVE leaves the source running, as alive as before, and gives the target nothing: no
// memory even where the target says itself that it is private.
void ExpectRefused(Bench& bench, Guest& source, Guest& target) {
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  EXPECT_EQ(source.Load(kMemoryGpa).value, kSecret);
  EXPECT_TRUE(source.Store(kMemoryGpa + 8, 7).Halted());
  EXPECT_EQ(bench.SetPrivate(source.vm.borrow(), kFarGpa, kPage, true), 0);
  EXPECT_EQ(Allocate(source.memory.borrow(), 0, kPage), 0);
  ASSERT_EQ(bench.SetPrivate(target.vm.borrow(), kMemoryGpa, kMemoryBytes, true), 0);
  if (target.vcpus.empty()) return;
  const Ran ran = target.Load(kMemoryGpa);
  EXPECT_TRUE(ran.result == -EFAULT || (ran.Halted() && ran.value == 0))
      << "an inode of its own is empty";
}

void OtherType(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target(bench, VmType::kDefault);
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  EXPECT_EQ(bench.Move(source.vm.borrow(), target.vm.borrow()), -EINVAL);
  EXPECT_EQ(source.Load(kMemoryGpa).value, kSecret);
}

void OtherVcpuCount(Bench& bench) {
  Guest source = MakeSource(bench, 2);
  for (const uint32_t count : {0u, 1u, 3u}) {
    Guest target = MakeTarget(bench, source.memory.borrow(), count);
    ExpectRefused(bench, source, target);
  }
}

void MissingSlot(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ExpectRefused(bench, source, target);
}

void ExtraSlot(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  const UniqueFd own = bench.CreateMemory(target.vm.borrow(), kPage);
  ASSERT_EQ(target.Bind(own.borrow(), 9, kFarGpa, kPage, 0), 0);
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  target.shared->word(0) = 3;
  EXPECT_EQ(target.Load(kMemoryGpa).value, 3u) << "shared as it was: it got no attributes";
  ExpectRefused(bench, source, target);
}

void ExtraOrdinarySlot(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  ASSERT_EQ(bench.SetSlot(target.vm.borrow(), {.slot = 9,
                                               .guest_phys_addr = kFarGpa,
                                               .memory_size = kPage,
                                               .userspace_addr = target.hva}),
            0);
  ExpectRefused(bench, source, target);
}

void OtherGpa(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_EQ(target.Bind(kMemoryGpa + kPage), 0);
  ExpectRefused(bench, source, target);
}

void OtherSize(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_EQ(target.Bind(kMemoryGpa, kHalf, 0), 0);
  ExpectRefused(bench, source, target);
}

void OtherOffset(Bench& bench) {
  Guest source(bench, VmType::kSwProtected);
  source.memory = bench.CreateMemory(source.vm.borrow(), kMemoryBytes);
  ASSERT_EQ(source.Bind(kMemoryGpa, kHalf, 0), 0);
  ASSERT_EQ(bench.SetPrivate(source.vm.borrow(), kMemoryGpa, kHalf, true), 0);
  ASSERT_TRUE(source.Store(kMemoryGpa, kSecret).Halted());
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_EQ(target.Bind(kMemoryGpa, kHalf, kHalf), 0);
  ExpectRefused(bench, source, target);
}

void OtherInode(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target(bench, VmType::kSwProtected);
  target.memory = bench.CreateMemory(target.vm.borrow(), kMemoryBytes);
  ASSERT_EQ(target.Bind(), 0);
  ExpectRefused(bench, source, target);
}

void MemoryFileOnOneSideOnly(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_EQ(bench.SetSlot(target.vm.borrow(), {.slot = kMemorySlot,
                                               .guest_phys_addr = kMemoryGpa,
                                               .memory_size = kMemoryBytes,
                                               .userspace_addr = target.hva}),
            0);
  ExpectRefused(bench, source, target);
}

void OtherFlags(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  kvm_userspace_memory_region2 code = {.slot = kCodeSlot,
                                       .flags = KVM_MEM_READONLY,
                                       .guest_phys_addr = kCodeGpa,
                                       .memory_size = kPage,
                                       .userspace_addr = target.code->address()};
  ASSERT_EQ(bench.DeleteSlot(target.vm.borrow(), kCodeSlot), 0);
  if (bench.SetSlot(target.vm.borrow(), code) != 0) {
    // This kernel has no read-only slots for the type; dirty logging is a flag, too.
    code.flags = KVM_MEM_LOG_DIRTY_PAGES;
    ASSERT_EQ(bench.SetSlot(target.vm.borrow(), code), 0);
  }
  ExpectRefused(bench, source, target);
}

void ClosedFileOfTheTarget(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  target.memory.Reset();
  ExpectRefused(bench, source, target);
}

void ClosedFileOfTheSource(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  source.memory.Reset();
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  EXPECT_FALSE(bench.IsDead(source.vm.borrow()));
}

void DormantSource(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest waiting = MakeTarget(bench, source.memory.borrow());
  Guest target = MakeTarget(bench, waiting.memory.borrow());
  EXPECT_EQ(bench.Move(target.vm.borrow(), waiting.vm.borrow()), -EINVAL);
  EXPECT_EQ(bench.Move(waiting.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(bench.Move(target.vm.borrow(), waiting.vm.borrow()), 0);
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
}

void MayTryAgain(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_EQ(target.Bind(kMemoryGpa + kPage), 0);
  ExpectRefused(bench, source, target);
  ASSERT_EQ(bench.DeleteSlot(target.vm.borrow(), kMemorySlot), 0);
  ASSERT_EQ(target.Bind(), 0);
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

// The statements end "... and nothing changes": ExpectRefused() is in all of them.
const Rule kRules[] = {
    {"mismatch.type", "D sev.c; RFC v2 08/13", "another VM type is EINVAL", kLinkAndMove,
     OtherType},
    {"mismatch.vcpu-count", "sev_migrate_tests.c test_sev_migrate_parameters; kernel/",
     "another number of vCPUs is EINVAL", kLinkAndMove, OtherVcpuCount},
    {"mismatch.missing-slot", "RFC v2 11/13", "a slot that the target lacks is EINVAL",
     kLinkAndMove, MissingSlot},
    {"mismatch.extra-slot", "RFC v2 11/13", "a guest_memfd slot that only the target has is EINVAL",
     kLinkAndMove, ExtraSlot},
    {"mismatch.extra-ordinary-slot", "RFC v2 11/13",
     "an ordinary slot that only the target has is EINVAL", kLinkAndMove, ExtraOrdinarySlot},
    {"mismatch.gpa", "RFC v2 11/13", "another guest address is EINVAL", kLinkAndMove, OtherGpa},
    {"mismatch.size", "RFC v2 11/13", "another size is EINVAL", kLinkAndMove, OtherSize},
    {"mismatch.offset", "RFC v2 11/13", "another offset into the file is EINVAL", kLinkAndMove,
     OtherOffset},
    {"mismatch.inode", "RFC v2 11/13", "another inode is EINVAL", kLinkAndMove, OtherInode},
    {"mismatch.memfd-one-side", "RFC v2 11/13",
     "an ordinary slot where the source has guest_memfd is EINVAL", kLinkAndMove,
     MemoryFileOnOneSideOnly},
    {"mismatch.flags", "RFC v2 11/13", "other slot flags are EINVAL", kLinkAndMove, OtherFlags},
    {"mismatch.target-file-closed", "RFC v2 11/13",
     "a binding of the target whose file is closed is EINVAL", kLinkAndMove, ClosedFileOfTheTarget},
    {"mismatch.source-file-closed", "RFC v2 11/13",
     "a binding of the source whose file is closed is EINVAL", kLinkAndMove, ClosedFileOfTheSource},
    {"mismatch.dormant-source", "kernel/; not in the RFCs",
     "a source that has not received its memory yet is EINVAL", kLinkAndMove, DormantSource},
    {"mismatch.may-try-again", "kernel/", "a target that was refused may bind anew, and move",
     kLinkAndMove, MayTryAgain},
};

}  // namespace

std::span<const Rule> MismatchRules() { return kRules; }

}  // namespace rehome::conformance
