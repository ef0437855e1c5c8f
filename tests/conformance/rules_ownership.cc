// SPDX-License-Identifier: Apache-2.0
//
// Who may call: VM and vCPU ioctls are for the address space that created the VM.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

void AnotherProcessIsEio(Bench& bench) {
  Guest guest(bench, bench.memory_type());
  testing::Child child([&](BorrowedFd) {
    kvm_regs regs = {};
    EXPECT_TRUE(bench.IsDead(guest.vm.borrow()));
    EXPECT_EQ(bench.Call(guest.vm.borrow(), KVM_CREATE_VCPU, 1), -EIO);
    EXPECT_EQ(bench.TryCreateMemory(guest.vm.borrow(), kPage), -EIO);
    EXPECT_EQ(bench.Call(guest.vcpus[0]->fd(), KVM_RUN), -EIO);
    EXPECT_EQ(bench.Call(guest.vcpus[0]->fd(), KVM_GET_REGS, &regs), -EIO);
    return 0;
  });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_FALSE(bench.IsDead(guest.vm.borrow())) << "it is only that process's business";
}

void MemoryFileWorksAnywhere(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  const UniqueFd memory = bench.CreateMemory(vm.borrow(), kMemoryBytes);
  testing::Child child([&](BorrowedFd) {
    EXPECT_EQ(Identify(memory.borrow())->size_bytes, kMemoryBytes);
    EXPECT_EQ(Allocate(memory.borrow(), 0, kPage), 0);
    EXPECT_EQ(PunchHole(memory.borrow(), 0, kPage), 0);
    return 0;
  });
  EXPECT_EQ(child.Wait(), 0);
}

void OrphanIsStillEinval(Bench& bench) {
  testing::Child owner([&](BorrowedFd socket) {
    const UniqueFd vm = bench.CreateVm(bench.memory_type());
    const UniqueFd memory = bench.CreateMemory(vm.borrow(), kMemoryBytes);
    return testing::Send(socket, {memory.borrow()}) ? 0 : 1;
  });
  std::vector<UniqueFd> received;
  ASSERT_TRUE(testing::Receive(owner.socket(), &received));
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(owner.Wait(), 0);
  Guest guest(bench, bench.memory_type());
  EXPECT_EQ(guest.Bind(received[0].borrow(), kMemorySlot, kMemoryGpa, kMemoryBytes, 0), -EINVAL);
}

const Rule kRules[] = {
    {"owner.other-process-eio",
     "D kvm_main.c 4476, 5189; probed on 6.18.44",
     "VM and vCPU ioctls of a process other than the creator are EIO, as of a dead VM",
     {},
     AnotherProcessIsEio},
    {"owner.memory-file-anywhere",
     "probed on 6.18.44",
     "fstat(2) and fallocate(2) of a guest_memfd work in every process",
     {},
     MemoryFileWorksAnywhere},
    {"owner.orphan-einval",
     "probed on 6.18.44",
     "a guest_memfd whose VM's process is gone cannot be bound elsewhere either",
     {},
     OrphanIsStillEinval},
};

}  // namespace

std::span<const Rule> OwnershipRules() { return kRules; }

}  // namespace rehome::conformance
