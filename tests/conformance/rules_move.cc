// SPDX-License-Identifier: Apache-2.0
//
// KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM of SW_PROTECTED: what goes over, and what it takes as a source.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

struct Move {
  explicit Move(Bench& bench)
      : source(MakeSource(bench)), target(MakeTarget(bench, source.memory.borrow())) {}
  BorrowedFd from() const { return source.vm.borrow(); }
  BorrowedFd to() const { return target.vm.borrow(); }
  Guest source, target;
};

void MemoryGoesOver(Bench& bench) {
  Move move(bench);
  EXPECT_TRUE(move.source.Store(kMemoryGpa + 9 * kPage, 9).Halted());
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, kSecret);
  EXPECT_EQ(move.target.Load(kMemoryGpa + 9 * kPage).value, 9u);
  EXPECT_TRUE(move.target.Store(kMemoryGpa + 8, 7).Halted());
  EXPECT_EQ(move.target.Load(kMemoryGpa + 8).value, 7u);
}

void AttributesGoOver(Bench& bench) {
  Move move(bench);
  constexpr uint64_t kSharedPage = kMemoryGpa + 4 * kPage;
  ASSERT_EQ(bench.SetPrivate(move.from(), kSharedPage, kPage, false), 0);
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  move.target.shared->word(0) = 0;
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, kSecret) << "private, as it was";
  move.target.shared->word(4 * kPage) = 5;
  EXPECT_EQ(move.target.Load(kSharedPage).value, 5u) << "shared, as it was";
}

void AttributesOfTheTargetAreReplaced(Bench& bench) {
  Move move(bench);
  constexpr uint64_t kSharedPage = kMemoryGpa + 4 * kPage;
  ASSERT_EQ(bench.SetPrivate(move.from(), kSharedPage, kPage, false), 0);
  ASSERT_EQ(bench.SetPrivate(move.to(), kSharedPage, kPage, true), 0);
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  move.target.shared->word(4 * kPage) = 5;
  EXPECT_EQ(move.target.Load(kSharedPage).value, 5u);
}

void WhatTheTargetHadMappedIsForgotten(Bench& bench) {
  Move move(bench);
  move.target.shared->word(0) = 3;
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, 3u) << "nothing is private there yet";
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, kSecret);
}

void AttributesCanBeChangedAfterwards(Bench& bench) {
  Move move(bench);
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  ASSERT_EQ(bench.SetPrivate(move.to(), kMemoryGpa, kPage, false), 0);
  move.target.shared->word(0) = 3;
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, 3u);
  ASSERT_EQ(bench.SetPrivate(move.to(), kMemoryGpa, kPage, true), 0);
  EXPECT_EQ(move.target.Load(kMemoryGpa).value, kSecret);
}

void RegistersStay(Bench& bench) {
  Move move(bench);
  kvm_regs regs = {};
  regs.rax = 4711;
  regs.rflags = 2;
  ASSERT_EQ(bench.Call(move.source.vcpus[0]->fd(), KVM_SET_REGS, &regs), 0);
  ASSERT_EQ(bench.Move(move.to(), move.from()), 0);
  ASSERT_EQ(bench.Call(move.target.vcpus[0]->fd(), KVM_GET_REGS, &regs), 0);
  EXPECT_NE(regs.rax, 4711u);
}

void AllVcpusRunAfterwards(Bench& bench) {
  Guest source = MakeSource(bench, 3);
  Guest target = MakeTarget(bench, source.memory.borrow(), 3);
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  for (const auto& vcpu : target.vcpus) {
    EXPECT_EQ(vcpu->Run(Program::kLoad, kMemoryGpa, 0).value, kSecret);
  }
}

// A layout of several slots with parts of one file, and a second file.
void BindLayout(Guest& guest, BorrowedFd second) {
  EXPECT_EQ(guest.Bind(kMemoryGpa, 4 * kPage, 0), 0);
  EXPECT_EQ(guest.Bind(guest.memory.borrow(), 5, kMemoryGpa + 8 * kPage, 4 * kPage, 8 * kPage), 0);
  EXPECT_EQ(guest.Bind(second, 6, kMemoryGpa + 32 * kPage, 2 * kPage, 0), 0);
}

void SeveralFilesAndSlots(Bench& bench) {
  Guest source(bench, VmType::kSwProtected);
  source.memory = bench.CreateMemory(source.vm.borrow(), kMemoryBytes);
  const UniqueFd second = bench.CreateMemory(source.vm.borrow(), 2 * kPage);
  BindLayout(source, second.borrow());
  ASSERT_EQ(bench.SetPrivate(source.vm.borrow(), kMemoryGpa, 64 * kPage, true), 0);
  const uint64_t places[] = {kMemoryGpa, kMemoryGpa + 8 * kPage, kMemoryGpa + 33 * kPage};
  for (const uint64_t gpa : places) {
    EXPECT_TRUE(source.Store(gpa, static_cast<uint32_t>(gpa)).Halted());
  }
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  const UniqueFd second_link = bench.Link(target.vm.borrow(), second.borrow());
  BindLayout(target, second_link.borrow());
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  for (const uint64_t gpa : places) EXPECT_EQ(target.Load(gpa).value, static_cast<uint32_t>(gpa));
}

void AddressesAndNumbersAreNotCompared(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  ASSERT_NE(source.hva, target.hva);
  ASSERT_EQ(target.Bind(target.memory.borrow(), kMemorySlot + 7, kMemoryGpa, kMemoryBytes, 0), 0);
  EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
}

void AChain(Bench& bench) {
  constexpr uint32_t kHops = 10;
  std::vector<Guest> chain;
  chain.push_back(MakeSource(bench));
  for (uint32_t hop = 0; hop < kHops; ++hop) {
    chain.push_back(MakeTarget(bench, chain.back().memory.borrow()));
    ASSERT_EQ(bench.Move(chain.back().vm.borrow(), chain[hop].vm.borrow()), 0);
    EXPECT_EQ(chain.back().Load(kMemoryGpa).value, kSecret + hop);
    EXPECT_TRUE(chain.back().Store(kMemoryGpa, kSecret + hop + 1).Halted());
  }
  EXPECT_EQ(bench.Move(chain[0].vm.borrow(), chain.back().vm.borrow()), -EIO)
      << "a VM that was moved from is dead";
  EXPECT_EQ(chain.back().Load(kMemoryGpa).value, kSecret + kHops);
}

void FlagsAreEinval(Bench& bench) {
  Move move(bench);
  kvm_enable_cap cap = {};
  cap.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  cap.flags = 1;
  cap.args[0] = static_cast<uint32_t>(move.from().raw());
  EXPECT_EQ(bench.Call(move.to(), KVM_ENABLE_CAP, &cap), -EINVAL);
  EXPECT_EQ(move.source.Load(kMemoryGpa).value, kSecret);
}

void NoArgumentIsEfault(Bench& bench) {
  const Move move(bench);
  EXPECT_EQ(bench.Call(move.to(), KVM_ENABLE_CAP), -EFAULT);
}

void AnythingButAVmIsEbadf(Bench& bench) {
  Move move(bench);
  const UniqueFd memfd(memfd_create("not a VM", MFD_CLOEXEC));
  for (const BorrowedFd fd : {BorrowedFd(1 << 20), BorrowedFd(-1), memfd.borrow(), bench.kvm(),
                              move.source.memory.borrow(), move.source.vcpus[0]->fd()}) {
    EXPECT_EQ(bench.Move(move.to(), fd), -EBADF) << fd.raw();
  }
}

void ItselfIsEinval(Bench& bench) {
  Move move(bench);
  EXPECT_EQ(bench.Move(move.from(), move.from()), -EINVAL);
  EXPECT_EQ(move.source.Load(kMemoryGpa).value, kSecret);
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

const Rule kRules[] = {
    {"move.memory", "RFC v2 13/13 test_migrate_private_mem_data",
     "the target reads what the source wrote to private memory, and can write", kLinkAndMove,
     MemoryGoesOver},
    {"move.attributes", "RFC v2 11/13", "what is private and what is shared goes over",
     kLinkAndMove, AttributesGoOver},
    {"move.attributes-replaced", "kernel/; RFC v2 11/13 (inferred)",
     "attributes that the target had are replaced", kLinkAndMove, AttributesOfTheTargetAreReplaced},
    {"move.target-mappings-forgotten", "kernel/",
     "what the target had mapped as shared is private after MOVE if it was in the source",
     kLinkAndMove, WhatTheTargetHadMappedIsForgotten},
    {"move.attributes-live-on", "kernel/", "afterwards the target converts memory as ever",
     kLinkAndMove, AttributesCanBeChangedAfterwards},
    {"move.registers-stay", "api.rst 7.29; D sev.c", "registers do not go over", kLinkAndMove,
     RegistersStay},
    {"move.all-vcpus", "TDX RFC v2 10/10", "every vCPU of the target runs afterwards", kLinkAndMove,
     AllVcpusRunAfterwards},
    {"move.several-files", "RFC v2 11/13", "several files and several slots of one file go over",
     kLinkAndMove, SeveralFilesAndSlots},
    {"move.addresses-not-compared", "RFC v2 11/13; kernel/",
     "slot numbers and userspace addresses may differ", kLinkAndMove,
     AddressesAndNumbersAreNotCompared},
    {"move.chain", "sev_migrate_tests.c test_sev_migrate_from",
     "a guest moves on from VM to VM; back into the first is EIO", kLinkAndMove, AChain},
    {"move.flags-einval", "D x86.c kvm_vm_ioctl_enable_cap", "flags of KVM_ENABLE_CAP are EINVAL",
     kLinkAndMove, FlagsAreEinval},
    {"move.efault", "D kvm_main.c", "no argument is EFAULT", kLinkAndMove, NoArgumentIsEfault},
    {"move.non-vm-ebadf", "D sev.c; RFC v2 08/13",
     "a source that is not open, or not a VM, is EBADF", kLinkAndMove, AnythingButAVmIsEbadf},
    {"move.self-einval", "D sev.c; RFC v2 08/13", "a VM cannot be moved into itself", kLinkAndMove,
     ItselfIsEinval},
};

}  // namespace

std::span<const Rule> MoveRules() { return kRules; }

}  // namespace rehome::conformance
