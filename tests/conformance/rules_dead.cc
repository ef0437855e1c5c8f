// SPDX-License-Identifier: Apache-2.0
//
// The source after MOVE: what is dead of it, and what its files can still do.
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

struct Moved {
  explicit Moved(Bench& bench)
      : source(MakeSource(bench)), target(MakeTarget(bench, source.memory.borrow())) {
    EXPECT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  }
  BorrowedFd dead() const { return source.vm.borrow(); }
  Guest source, target;
};

void RunIsEio(Bench& bench) {
  const Moved moved(bench);
  EXPECT_EQ(bench.Call(moved.source.vcpus[0]->fd(), KVM_RUN), -EIO);
}

void StateIsEio(Bench& bench) {
  const Moved moved(bench);
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  EXPECT_EQ(bench.Call(moved.source.vcpus[0]->fd(), KVM_GET_REGS, &regs), -EIO);
  EXPECT_EQ(bench.Call(moved.source.vcpus[0]->fd(), KVM_GET_SREGS, &sregs), -EIO);
  EXPECT_EQ(bench.Call(moved.source.vcpus[0]->fd(), KVM_SET_REGS, &regs), -EIO);
}

void VmIoctlsAreEio(Bench& bench) {
  const Moved moved(bench);
  EXPECT_TRUE(bench.IsDead(moved.dead()));
  EXPECT_EQ(bench.Call(moved.dead(), KVM_CREATE_VCPU, 7), -EIO);
  EXPECT_EQ(bench.TryCreateMemory(moved.dead(), kPage), -EIO);
  EXPECT_EQ(bench.DeleteSlot(moved.dead(), kMemorySlot), -EIO);
  EXPECT_EQ(bench.SetPrivate(moved.dead(), kMemoryGpa, kPage, false), -EIO);
}

void NothingComesBack(Bench& bench) {
  Moved moved(bench);
  EXPECT_EQ(bench.TryLink(moved.dead(), moved.target.memory.borrow()), -EIO);
  EXPECT_EQ(bench.Move(moved.dead(), moved.target.vm.borrow()), -EIO);
  EXPECT_EQ(moved.target.Load(kMemoryGpa).value, kSecret);
}

void SecondMoveIsEio(Bench& bench) {
  Moved moved(bench);
  Guest late = MakeTarget(bench, moved.source.memory.borrow());
  EXPECT_EQ(bench.Move(late.vm.borrow(), moved.dead()), -EIO);
  EXPECT_EQ(bench.Move(moved.target.vm.borrow(), moved.dead()), -EIO);
  EXPECT_EQ(moved.target.Load(kMemoryGpa).value, kSecret);
  EXPECT_FALSE(bench.IsDead(late.vm.borrow()));
}

void OtherProcessesSeeItAlike(Bench& bench) {
  const Moved moved(bench);
  testing::Child child([&](BorrowedFd) {
    // Alive or dead: neither is that process's VM, so that no one can prove a fence from outside.
    EXPECT_TRUE(bench.IsDead(moved.dead()));
    EXPECT_TRUE(bench.IsDead(moved.target.vm.borrow()));
    return 0;
  });
  EXPECT_EQ(child.Wait(), 0);
}

void FileCanBeIdentified(Bench& bench) {
  const Moved moved(bench);
  EXPECT_EQ(Identify(moved.source.memory.borrow())->id, Identify(moved.target.memory.borrow())->id);
}

void HoleThroughTheOldFileIsEperm(Bench& bench) {
  Moved moved(bench);
  EXPECT_EQ(PunchHole(moved.source.memory.borrow(), 0, kPage), EPERM);
  EXPECT_EQ(Allocate(moved.source.memory.borrow(), 0, kPage), EPERM);
  EXPECT_EQ(moved.target.Load(kMemoryGpa).value, kSecret) << "the target's memory is its own";
}

void UnboundOldFileIsEpermToo(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest waiting = MakeTarget(bench, source.memory.borrow());
  // A second file of the source, by way of another VM; it is not bound at MOVE.
  const UniqueFd spare = bench.Link(source.vm.borrow(), waiting.memory.borrow());
  ASSERT_EQ(bench.Move(waiting.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(PunchHole(spare.borrow(), 0, kPage), EPERM);
  EXPECT_EQ(waiting.Load(kMemoryGpa).value, kSecret) << "the target's memory is its own";
}

void HoleThroughTheNewFileIsSeen(Bench& bench) {
  Moved moved(bench);
  EXPECT_EQ(moved.target.Load(kMemoryGpa).value, kSecret) << "and now it is mapped";
  EXPECT_EQ(PunchHole(moved.target.memory.borrow(), 0, kPage), 0);
  EXPECT_EQ(moved.target.Load(kMemoryGpa).value, 0u);
}

void EarlierHoleIsSeen(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  ASSERT_EQ(PunchHole(source.memory.borrow(), 0, kPage), 0);
  EXPECT_TRUE(source.Store(kMemoryGpa + kPage, 7).Halted());
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(target.Load(kMemoryGpa).value, 0u);
  EXPECT_EQ(target.Load(kMemoryGpa + kPage).value, 7u);
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

const Rule kRules[] = {
    {"dead.run-eio", "D kvm_main.c 4476; sev_migrate_tests.c", "KVM_RUN of the source is EIO",
     kLinkAndMove, RunIsEio},
    {"dead.vcpu-eio", "D kvm_main.c 4476", "the source's registers cannot be read any more: EIO",
     kLinkAndMove, StateIsEio},
    {"dead.vm-eio", "D kvm_main.c 5189", "every VM ioctl of the source is EIO", kLinkAndMove,
     VmIoctlsAreEio},
    {"dead.no-way-back", "sev_migrate_tests.c test_sev_migrate_from",
     "LINK and MOVE into the source are EIO", kLinkAndMove, NothingComesBack},
    {"dead.second-move-eio", "kernel/; SEV says EINVAL", "a second MOVE from the source is EIO",
     kLinkAndMove, SecondMoveIsEio},
    {"dead.other-process-cannot-tell", "D kvm_main.c; probed on 6.18.44",
     "another process gets EIO from the dead VM and from the live one", kLinkAndMove,
     OtherProcessesSeeItAlike},
    {"dead.file-identity", "RFC v2 04/13", "the source's file still tells its inode", kLinkAndMove,
     FileCanBeIdentified},
    {"dead.old-file-eperm", "kernel/; the RFCs let it destroy the target's memory",
     "fallocate(2) through the source's file is EPERM", kLinkAndMove, HoleThroughTheOldFileIsEperm},
    {"dead.spare-file-eperm", "kernel/", "so it is through a file of the source that is not bound",
     kLinkAndMove, UnboundOldFileIsEpermToo},
    {"dead.new-file-punches", "T guest_memfd.c kvm_gmem_punch_hole",
     "a hole punched through the target's file is seen by the target", kLinkAndMove,
     HoleThroughTheNewFileIsSeen},
    {"dead.earlier-hole", "seed (zap across all files); T guest_memfd.c",
     "a hole that the source punched before MOVE is one in the target", kLinkAndMove,
     EarlierHoleIsSeen},
};

}  // namespace

std::span<const Rule> DeadRules() { return kRules; }

}  // namespace rehome::conformance
