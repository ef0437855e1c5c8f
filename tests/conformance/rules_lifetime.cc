// SPDX-License-Identifier: Apache-2.0
//
// Who may go when: descriptors in any order, and processes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

// v: the VM, m: its guest_memfd, c: its vCPU.
void Close(Guest& guest, char what) {
  if (what == 'v') guest.vm.Reset();
  if (what == 'm') guest.memory.Reset();
  if (what == 'c') guest.vcpus.clear();
}

void SourceMayBeClosedInAnyOrder(Bench& bench) {
  std::string order = "cmv";
  do {
    Guest source = MakeSource(bench);
    Guest target = MakeTarget(bench, source.memory.borrow());
    ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
    for (const char what : order) {
      Close(source, what);
      EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret) << order << " at " << what;
    }
    EXPECT_TRUE(target.Store(kMemoryGpa, 1).Halted());
  } while (std::next_permutation(order.begin(), order.end()));
}

void ClosedTargetGivesTheSourceBack(Bench& bench) {
  std::string order = "cmv";
  Guest source = MakeSource(bench);
  do {
    Guest target = MakeTarget(bench, source.memory.borrow());
    for (const char what : order) {
      Close(target, what);
      EXPECT_EQ(source.Load(kMemoryGpa).value, kSecret) << order << " at " << what;
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

void SourcesVmMayBeClosedButForItsVcpu(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  source.vm.Reset();
  EXPECT_EQ(bench.Call(source.vcpus[0]->fd(), KVM_RUN), -EIO) << "a vCPU keeps its VM";
}

void MemoryOutlivesTheChain(Bench& bench) {
  Guest first = MakeSource(bench);
  Guest second = MakeTarget(bench, first.memory.borrow());
  ASSERT_EQ(bench.Move(second.vm.borrow(), first.vm.borrow()), 0);
  Guest third = MakeTarget(bench, first.memory.borrow());
  ASSERT_EQ(bench.Move(third.vm.borrow(), second.vm.borrow()), 0)
      << "linked from the first, moved from the second";
  first = Guest(bench, VmType::kSwProtected);
  second = Guest(bench, VmType::kSwProtected);
  EXPECT_EQ(third.Load(kMemoryGpa).value, kSecret);
}

// Another process's source: its VM and its memory.
struct Received {
  UniqueFd vm, memory;
};

int OfferSource(Bench& bench, BorrowedFd socket) {
  Guest source = MakeSource(bench);
  if (!testing::Send(socket, {source.vm.borrow(), source.memory.borrow()})) return 1;
  return testing::Receive(socket) ? 0 : 2;
}

// A target in another process: takes over, tells its VM and memory, and lives until told.
int TakeOver(Bench& bench, BorrowedFd socket, BorrowedFd vm, BorrowedFd memory) {
  Guest target = MakeTarget(bench, memory);
  if (bench.Move(target.vm.borrow(), vm) != 0) return 3;
  if (!testing::Send(socket, {target.vm.borrow(), target.memory.borrow()})) return 4;
  (void)testing::Receive(socket);
  return target.Load(kMemoryGpa).value == kSecret ? 0 : 5;
}

Received ReceiveGuest(const testing::Child& child) {
  std::vector<UniqueFd> fds;
  EXPECT_TRUE(testing::Receive(child.socket(), &fds));
  EXPECT_EQ(fds.size(), 2u);
  fds.resize(2);
  return {std::move(fds[0]), std::move(fds[1])};
}

void BetweenProcesses(Bench& bench) {
  testing::Child owner([&](BorrowedFd socket) { return OfferSource(bench, socket); });
  const Received source = ReceiveGuest(owner);
  Guest target = MakeTarget(bench, source.memory.borrow());
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0)
      << "the source's descriptor is an argument: no matter whose";
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
  ASSERT_TRUE(testing::Send(owner.socket()));
  EXPECT_EQ(owner.Wait(), 0);
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
}

void FromAKilledSource(Bench& bench) {
  testing::Child owner([&](BorrowedFd socket) { return OfferSource(bench, socket); });
  const Received source = ReceiveGuest(owner);
  Guest target = MakeTarget(bench, source.memory.borrow());
  owner.Kill();
  EXPECT_EQ(owner.Wait(), 128 + 9);
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0) << "its descriptors are enough";
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
}

void RescueFromAKilledTarget(Bench& bench) {
  Guest source = MakeSource(bench);
  testing::Child victim([&](BorrowedFd socket) {
    return TakeOver(bench, socket, source.vm.borrow(), source.memory.borrow());
  });
  const Received taken = ReceiveGuest(victim);
  victim.Kill();
  EXPECT_EQ(victim.Wait(), 128 + 9);
  EXPECT_TRUE(bench.IsDead(source.vm.borrow()));
  Guest rescuer = MakeTarget(bench, taken.memory.borrow());
  EXPECT_EQ(bench.Move(rescuer.vm.borrow(), taken.vm.borrow()), 0);
  EXPECT_EQ(rescuer.Load(kMemoryGpa).value, kSecret);
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

const Rule kRules[] = {
    {"lifetime.source-any-order", "sev_migrate_tests.c test_sev_move_copy; RFC v2 13/13",
     "after MOVE the source's VM, memory and vCPU may be closed in any order", kLinkAndMove,
     SourceMayBeClosedInAnyOrder},
    {"lifetime.target-any-order",
     "seed (a file's release zaps its own VM only)",
     "before MOVE the target may be closed in any order, and the source runs on",
     {Feature::kLink},
     ClosedTargetGivesTheSourceBack},
    {"lifetime.vcpu-keeps-vm", "D kvm_main.c", "a vCPU whose VM is closed is dead all the same",
     kLinkAndMove, SourcesVmMayBeClosedButForItsVcpu},
    {"lifetime.memory-outlives", "seed (contents outlive the VM)",
     "memory lives on when all VMs before the last are gone, whichever of them was linked",
     kLinkAndMove, MemoryOutlivesTheChain},
    {"lifetime.other-process", "D sev.c (no mm check of the source)",
     "MOVE takes the VM of another process as its source", kLinkAndMove, BetweenProcesses},
    {"lifetime.killed-source", "inferred; tried with the prototype",
     "so it does when that process has been killed", kLinkAndMove, FromAKilledSource},
    {"lifetime.rescue", "inferred; tried with the prototype",
     "a target that is killed right after MOVE can be moved from", kLinkAndMove,
     RescueFromAKilledTarget},
};

}  // namespace

std::span<const Rule> LifetimeRules() { return kRules; }

}  // namespace rehome::conformance
