// SPDX-License-Identifier: Apache-2.0
//
// The mapping gate: what a link cannot do before MOVE.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

// A source, and a target that could take over; what is private in the source is so in the target.
struct Gate {
  explicit Gate(Bench& bench)
      : source(MakeSource(bench)), target(MakeTarget(bench, source.memory.borrow())) {
    EXPECT_EQ(bench.SetPrivate(target.vm.borrow(), kMemoryGpa, kMemoryBytes, true), 0);
  }
  Guest source, target;
};

void GuestFaults(Bench& bench) {
  Gate gate(bench);
  for (const Ran& ran : {gate.target.Load(kMemoryGpa + 0x10), gate.target.Store(kMemoryGpa, 1)}) {
    EXPECT_EQ(ran.result, -EFAULT);
    EXPECT_EQ(ran.exit_reason, static_cast<uint32_t>(KVM_EXIT_MEMORY_FAULT));
    EXPECT_EQ(ran.fault.gpa, kMemoryGpa);
    EXPECT_EQ(ran.fault.size, kPage);
    EXPECT_EQ(ran.fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
  }
  EXPECT_EQ(gate.source.Load(kMemoryGpa).value, kSecret) << "nothing was written";
}

void SourceRunsOn(Bench& bench) {
  Gate gate(bench);
  EXPECT_EQ(gate.target.Load(kMemoryGpa).result, -EFAULT);
  EXPECT_TRUE(gate.source.Store(kMemoryGpa + 8, 7).Halted());
  EXPECT_EQ(gate.source.Load(kMemoryGpa + 8).value, 7u);
  EXPECT_EQ(gate.source.Load(kMemoryGpa).value, kSecret);
}

void PunchIsEperm(Bench& bench) {
  Gate gate(bench);
  EXPECT_EQ(PunchHole(gate.target.memory.borrow(), 0, kPage), EPERM);
  EXPECT_EQ(gate.source.Load(kMemoryGpa).value, kSecret) << "nothing was freed";
}

void AllocateIsEperm(Bench& bench) {
  Gate gate(bench);
  EXPECT_EQ(Allocate(gate.target.memory.borrow(), 0, kPage), EPERM);
}

void PreFaultIsEfault(Bench& bench) {
  Gate gate(bench);
  kvm_pre_fault_memory range = {.gpa = kMemoryGpa, .size = kPage, .flags = 0, .padding = {}};
  EXPECT_EQ(bench.Call(gate.target.vcpus[0]->fd(), KVM_PRE_FAULT_MEMORY, &range), -EFAULT);
  EXPECT_EQ(bench.Call(gate.source.vcpus[0]->fd(), KVM_PRE_FAULT_MEMORY, &range), 0)
      << "the source may";
}

void CannotBeMapped(Bench& bench) {
  const UniqueFd owner = bench.CreateVm(VmType::kSwProtected);
  const UniqueFd other = bench.CreateVm(VmType::kSwProtected);
  const UniqueFd memory = bench.CreateMemory(owner.borrow(), kPage, GUEST_MEMFD_FLAG_MMAP);
  const UniqueFd link = bench.Link(other.borrow(), memory.borrow());
  void* address = nullptr;
  EXPECT_EQ(bench.kernel().MapShared(link.borrow(), kPage, 0, &address).error, EPERM);
}

void CanBeBoundAndUnbound(Bench& bench) {
  Gate gate(bench);
  EXPECT_EQ(bench.DeleteSlot(gate.target.vm.borrow(), kMemorySlot), 0);
  EXPECT_EQ(gate.target.Bind(kMemoryGpa + 64 * kPage), 0);
  EXPECT_EQ(gate.source.Load(kMemoryGpa).value, kSecret);
}

void ClosingItChangesNothing(Bench& bench) {
  Gate gate(bench);
  gate.target.memory.Reset();
  EXPECT_EQ(gate.source.Load(kMemoryGpa).value, kSecret);
  Guest next = MakeTarget(bench, gate.source.memory.borrow());
  EXPECT_EQ(bench.Move(next.vm.borrow(), gate.source.vm.borrow()), 0);
  EXPECT_EQ(next.Load(kMemoryGpa).value, kSecret);
}

void UnboundStaysShut(Bench& bench) {
  Gate gate(bench);
  const UniqueFd unbound = bench.Link(gate.target.vm.borrow(), gate.source.memory.borrow());
  ASSERT_EQ(bench.Move(gate.target.vm.borrow(), gate.source.vm.borrow()), 0);
  constexpr uint64_t kFar = kMemoryGpa + 64 * kPage;
  ASSERT_EQ(gate.target.Bind(unbound.borrow(), kMemorySlot + 1, kFar, kPage, 0), 0);
  ASSERT_EQ(bench.SetPrivate(gate.target.vm.borrow(), kFar, kPage, true), 0);
  EXPECT_EQ(gate.target.Load(kFar).result, -EFAULT);
  EXPECT_EQ(gate.target.Load(kMemoryGpa).value, kSecret);
}

void OthersStayShut(Bench& bench) {
  Gate gate(bench);
  Guest bystander = MakeTarget(bench, gate.source.memory.borrow());
  ASSERT_EQ(bench.SetPrivate(bystander.vm.borrow(), kMemoryGpa, kMemoryBytes, true), 0);
  ASSERT_EQ(bench.Move(gate.target.vm.borrow(), gate.source.vm.borrow()), 0);
  EXPECT_EQ(bystander.Load(kMemoryGpa).result, -EFAULT);
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

const Rule kRules[] = {
    {"dormant.guest-faults",
     "seed (cannot be mapped until MOVE); kernel/; not in the RFCs",
     "before MOVE the target's accesses leave KVM_RUN with EFAULT and KVM_EXIT_MEMORY_FAULT",
     {Feature::kLink},
     GuestFaults},
    {"dormant.source-runs-on",
     "seed",
     "the source is not disturbed by a target that tries",
     {Feature::kLink},
     SourceRunsOn},
    {"dormant.punch-eperm",
     "kernel/; not in the RFCs",
     "PUNCH_HOLE through a link is EPERM",
     {Feature::kLink},
     PunchIsEperm},
    {"dormant.allocate-eperm",
     "kernel/; not in the RFCs",
     "fallocate(2) through a link is EPERM",
     {Feature::kLink},
     AllocateIsEperm},
    {"dormant.pre-fault-efault",
     "kernel/; not in the RFCs",
     "KVM_PRE_FAULT_MEMORY of a link is EFAULT",
     {Feature::kLink, Feature::kPreFault},
     PreFaultIsEfault},
    {"dormant.mmap-eperm",
     "seed; no kernel has both yet",
     "mmap(2) of a link is EPERM",
     {Feature::kLink, Feature::kMappableMemory},
     CannotBeMapped},
    {"dormant.bind-allowed",
     "seed",
     "a link can be bound, unbound, and bound elsewhere",
     {Feature::kLink},
     CanBeBoundAndUnbound},
    {"dormant.close-harmless", "seed; RFC v2 04/13",
     "closing a link takes nothing from the source, which can still be moved", kLinkAndMove,
     ClosingItChangesNothing},
    {"dormant.unbound-stays-shut", "kernel/", "a link that MOVE did not find bound stays shut",
     kLinkAndMove, UnboundStaysShut},
    {"dormant.others-stay-shut", "kernel/", "MOVE to one target opens no other target's link",
     kLinkAndMove, OthersStayShut},
};

}  // namespace

std::span<const Rule> DormantRules() { return kRules; }

}  // namespace rehome::conformance
