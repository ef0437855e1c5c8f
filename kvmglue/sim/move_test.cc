// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/move.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kSecret = 0xdeadbeef;

// The two types whose memory is handed over; a TD's registers cannot be set, so what runs is
// checked on SW_PROTECTED.
class MoveTest : public ::testing::Test {
 protected:
  MoveTest() { EXPECT_EQ(Store(source_, kGuestGpa, kSecret), 0); }

  int Store(const Guest& guest, uint64_t gpa, uint64_t value) {
    return kernel_.Run(guest.vcpus[0].borrow(), Program::kStore, gpa, value).result;
  }
  uint64_t Load(const Guest& guest, uint64_t gpa) {
    const RunResult run = kernel_.Run(guest.vcpus[0].borrow(), Program::kLoad, gpa);
    EXPECT_EQ(run.result, 0);
    return run.regs.rcx;
  }
  int MoveTo(const Guest& target) { return kernel_.Move(target.vm.borrow(), source_.vm.borrow()); }
  Guest MakeTarget() {
    return sim::MakeTarget(kernel_, VmType::kSwProtected, source_.memory.borrow());
  }
  // A target without slots.
  Guest MakeEmptyTarget(uint32_t vcpus = 1) {
    Guest target;
    target.vm = kernel_.CreateVm(VmType::kSwProtected);
    for (uint32_t i = 0; i < vcpus; ++i) {
      target.vcpus.push_back(kernel_.CreateVcpu(target.vm.borrow(), i));
    }
    target.memory = kernel_.Link(target.vm.borrow(), source_.memory.borrow());
    return target;
  }

  // The promise behind every refusal: the source is as it was, and the target got nothing.
  void ExpectNothingChanged(const Guest& target) {
    EXPECT_EQ(Load(source_, kGuestGpa), kSecret);
    EXPECT_EQ(Store(source_, kGuestGpa + 8, 1), 0);
    const UniqueFd fresh = kernel_.CreateGuestMemfd(source_.vm.borrow(), 4096);
    EXPECT_TRUE(fresh.valid());
    if (target.vcpus.empty()) return;
    const RunResult run = kernel_.Run(target.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
    EXPECT_TRUE(run.result != 0 || run.regs.rcx != kSecret ||
                run.exit_reason == KVM_EXIT_INTERNAL_ERROR);
  }
  void ExpectRefused(const Guest& target, int error = EINVAL) {
    EXPECT_EQ(MoveTo(target), -error);
    ExpectNothingChanged(target);
  }

  TestKernel kernel_;
  Guest source_ = MakeGuest(kernel_, VmType::kSwProtected);
};

TEST_F(MoveTest, TargetReadsWhatTheSourceWroteThroughTheMovedAttributes) {
  const Guest target = MakeTarget();
  EXPECT_EQ(MoveTo(target), 0);
  EXPECT_EQ(Load(target, kGuestGpa), kSecret);
  EXPECT_EQ(Store(target, kGuestGpa + 8, 7), 0);
  EXPECT_EQ(Load(target, kGuestGpa + 8), 7u);
}

TEST_F(MoveTest, SourceIsDeadInEveryIoctlAfterwards) {
  const Guest target = MakeTarget();
  ASSERT_EQ(MoveTo(target), 0);
  kvm_regs regs;
  EXPECT_EQ(kernel_.Call(source_.vcpus[0].borrow(), KVM_RUN, 0ul), -EIO);
  EXPECT_EQ(kernel_.Call(source_.vcpus[0].borrow(), KVM_GET_REGS, &regs), -EIO);
  EXPECT_EQ(kernel_.Call(source_.vm.borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
  EXPECT_EQ(kernel_.Call(source_.vm.borrow(), KVM_CREATE_VCPU, 1ul), -EIO);
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(source_.vm.borrow(), 4096, 0), -EIO);
  EXPECT_EQ(kernel_.Move(source_.vm.borrow(), target.vm.borrow()), -EIO);
}

TEST_F(MoveTest, MemoryStaysReachableThroughTheDeadSourcesFile) {
  const Guest target = MakeTarget();
  ASSERT_EQ(MoveTo(target), 0);
  ASSERT_EQ(
      fallocate(source_.memory.borrow().raw(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
      0);
  EXPECT_EQ(Load(target, kGuestGpa), 0u)
      << "a hole punched through the old file must hit the inode";
}

TEST_F(MoveTest, SecondMoveFromTheSourceIsEio) {
  const Guest target = MakeTarget();
  const Guest late = MakeTarget();
  ASSERT_EQ(MoveTo(target), 0);
  EXPECT_EQ(MoveTo(late), -EIO);
  EXPECT_EQ(Load(target, kGuestGpa), kSecret);
}

TEST_F(MoveTest, GuestMovesOnFromVmToVm) {
  std::vector<Guest> chain;
  chain.push_back(std::move(source_));
  for (int hop = 0; hop < 10; ++hop) {
    chain.push_back(sim::MakeTarget(kernel_, VmType::kSwProtected, chain.back().memory.borrow()));
    ASSERT_EQ(kernel_.Move(chain.back().vm.borrow(), chain[hop].vm.borrow()), 0);
    EXPECT_EQ(Load(chain.back(), kGuestGpa), kSecret + hop);
    EXPECT_EQ(Store(chain.back(), kGuestGpa, kSecret + hop + 1), 0);
  }
}

TEST_F(MoveTest, SourceMayBeClosedBeforeTheTargetRuns) {
  const Guest target = MakeTarget();
  ASSERT_EQ(MoveTo(target), 0);
  source_ = Guest{};
  EXPECT_EQ(Load(target, kGuestGpa), kSecret);
}

TEST_F(MoveTest, AttributesSetInTheTargetBeforeAreReplaced) {
  const Guest target = MakeTarget();
  ASSERT_EQ(kernel_.SetPrivate(target.vm.borrow(), 0x40000000, 4096, true), 0);
  ASSERT_EQ(kernel_.SetPrivate(source_.vm.borrow(), kGuestGpa + 0x8000, 0x1000, false), 0);
  ASSERT_EQ(MoveTo(target), 0);
  const RunResult outside = kernel_.Run(target.vcpus[0].borrow(), Program::kLoad, 0x40000000);
  EXPECT_EQ(outside.exit_reason, static_cast<uint32_t>(KVM_EXIT_INTERNAL_ERROR));
  // Shared there: goes to userspace_addr, which is not mapped, not to the guest_memfd.
  const RunResult shared =
      kernel_.Run(target.vcpus[0].borrow(), Program::kLoad, kGuestGpa + 0x8000);
  EXPECT_EQ(shared.result, -EFAULT);
}

TEST_F(MoveTest, RegistersOfAnUnprotectedVcpuAreNotMoved) {
  const Guest target = MakeTarget();
  kvm_regs regs = {};
  regs.rax = 4711;
  ASSERT_EQ(kernel_.Call(source_.vcpus[0].borrow(), KVM_SET_REGS, &regs), 0);
  ASSERT_EQ(MoveTo(target), 0);
  ASSERT_EQ(kernel_.Call(target.vcpus[0].borrow(), KVM_GET_REGS, &regs), 0);
  EXPECT_NE(regs.rax, 4711u);
}

// ---- refusals

TEST_F(MoveTest, CapFlagsAreEinval) {
  const Guest target = MakeTarget();
  kvm_enable_cap cap = {};
  cap.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  cap.args[0] = static_cast<uint32_t>(source_.vm.borrow().raw());
  cap.flags = 1;
  EXPECT_EQ(kernel_.Call(target.vm.borrow(), KVM_ENABLE_CAP, &cap), -EINVAL);
  cap.cap = 9999;
  cap.flags = 0;
  EXPECT_EQ(kernel_.Call(target.vm.borrow(), KVM_ENABLE_CAP, &cap), -EINVAL);
  EXPECT_EQ(kernel_.Call(target.vm.borrow(), KVM_ENABLE_CAP, 0ul), -EFAULT);
  ExpectNothingChanged(target);
}

TEST_F(MoveTest, AnythingButAVmIsEbadf) {
  const Guest target = MakeTarget();
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), BorrowedFd(-1)), -EBADF);
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), BorrowedFd(999)), -EBADF);
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), source_.memory.borrow()), -EBADF);
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), source_.vcpus[0].borrow()), -EBADF);
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), kernel_.kvm()), -EBADF);
  ExpectNothingChanged(target);
}

TEST_F(MoveTest, SameVmIsEinval) {
  EXPECT_EQ(kernel_.Move(source_.vm.borrow(), source_.vm.borrow()), -EINVAL);
  EXPECT_EQ(Load(source_, kGuestGpa), kSecret);
}

TEST_F(MoveTest, OtherVmTypeIsEinval) {
  for (const VmType type :
       {VmType::kDefault, VmType::kSev, VmType::kSevEs, VmType::kSnp, VmType::kTdx}) {
    Guest target;
    target.vm = kernel_.CreateVm(type);
    ExpectRefused(target);
  }
}

TEST_F(MoveTest, MissingBindingIsEinval) { ExpectRefused(MakeEmptyTarget()); }

TEST_F(MoveTest, AdditionalBindingIsEinval) {
  const Guest target = MakeTarget();
  HostPages pages(4096);
  ASSERT_EQ(kernel_.TrySetRegion(target.vm.borrow(), {.slot = 9,
                                                      .guest_phys_addr = 0,
                                                      .memory_size = 4096,
                                                      .userspace_addr = pages.address()}),
            0);
  ExpectRefused(target);
}

TEST_F(MoveTest, OtherVcpuCountIsEinval) {
  for (const uint32_t vcpus : {0u, 2u}) {
    ExpectRefused(sim::MakeTarget(kernel_, VmType::kSwProtected, source_.memory.borrow(), vcpus));
  }
}

TEST_F(MoveTest, OtherGpaIsEinval) {
  const Guest target = MakeEmptyTarget();
  ASSERT_EQ(
      kernel_.Bind(target.vm.borrow(), 0, kGuestGpa + 0x1000, kGuestSize, target.memory.borrow()),
      0);
  ExpectRefused(target);
}

TEST_F(MoveTest, OtherSizeIsEinval) {
  const Guest target = MakeEmptyTarget();
  ASSERT_EQ(kernel_.Bind(target.vm.borrow(), 0, kGuestGpa, kGuestSize / 2, target.memory.borrow()),
            0);
  ExpectRefused(target);
}

TEST_F(MoveTest, OtherOffsetIsEinval) {
  // Both sides with half of the memory bound, at different offsets.
  ASSERT_EQ(kernel_.TrySetRegion(source_.vm.borrow(), {.slot = 0}), 0);
  ASSERT_EQ(
      kernel_.Bind(source_.vm.borrow(), 0, kGuestGpa, kGuestSize / 2, source_.memory.borrow(), 0),
      0);
  const Guest target = MakeEmptyTarget();
  ASSERT_EQ(kernel_.Bind(target.vm.borrow(), 0, kGuestGpa, kGuestSize / 2, target.memory.borrow(),
                         kGuestSize / 2),
            0);
  ExpectRefused(target);
}

TEST_F(MoveTest, OtherInodeIsEinval) {
  const Guest target = MakeEmptyTarget();
  const UniqueFd own = kernel_.CreateGuestMemfd(target.vm.borrow(), kGuestSize);
  ASSERT_EQ(kernel_.Bind(target.vm.borrow(), 0, kGuestGpa, kGuestSize, own.borrow()), 0);
  ExpectRefused(target);
}

TEST_F(MoveTest, OtherFlagsAreEinval) {
  HostPages pages(4096);
  const kvm_userspace_memory_region2 plain = {
      .slot = 3, .guest_phys_addr = 0, .memory_size = 4096, .userspace_addr = pages.address()};
  ASSERT_EQ(kernel_.TrySetRegion(source_.vm.borrow(), plain), 0);
  const Guest target = MakeTarget();
  auto read_only = plain;
  read_only.flags = KVM_MEM_READONLY;
  ASSERT_EQ(kernel_.TrySetRegion(target.vm.borrow(), read_only), 0);
  ExpectRefused(target);
}

TEST_F(MoveTest, GuestMemfdOnOneSideOnlyIsEinval) {
  HostPages pages(kGuestSize);
  const Guest target = MakeEmptyTarget();
  ASSERT_EQ(kernel_.TrySetRegion(target.vm.borrow(), {.slot = 0,
                                                      .guest_phys_addr = kGuestGpa,
                                                      .memory_size = kGuestSize,
                                                      .userspace_addr = pages.address()}),
            0);
  ExpectRefused(target);
}

TEST_F(MoveTest, UserspaceAddressAndSlotNumberAreNotCompared) {
  HostPages ours(4096);
  HostPages theirs(4096);
  kvm_userspace_memory_region2 region = {
      .slot = 3, .guest_phys_addr = 0, .memory_size = 4096, .userspace_addr = ours.address()};
  ASSERT_EQ(kernel_.TrySetRegion(source_.vm.borrow(), region), 0);
  const Guest target = MakeTarget();
  region.slot = 200;
  region.userspace_addr = theirs.address();
  ASSERT_EQ(kernel_.TrySetRegion(target.vm.borrow(), region), 0);
  EXPECT_EQ(MoveTo(target), 0);
}

TEST_F(MoveTest, OtherTssOrIdentityMapAddressIsEinval) {
  const Guest target = MakeTarget();
  ASSERT_EQ(kernel_.Call(target.vm.borrow(), KVM_SET_TSS_ADDR, 0xfffbd000ul), 0);
  ExpectRefused(target);
  ASSERT_EQ(kernel_.Call(source_.vm.borrow(), KVM_SET_TSS_ADDR, 0xfffbd000ul), 0);
  EXPECT_EQ(MoveTo(target), 0);
}

TEST_F(MoveTest, ClosedFileOnEitherSideIsEinval) {
  Guest closed_here = MakeTarget();
  closed_here.memory.Reset();
  EXPECT_EQ(MoveTo(closed_here), -EINVAL);

  const Guest target = MakeTarget();
  source_.memory.Reset();
  EXPECT_EQ(MoveTo(target), -EINVAL) << "a binding whose file is closed is no binding";
}

TEST_F(MoveTest, SourceThatNeverReceivedItsMemoryIsEinval) {
  const Guest waiting = MakeTarget();
  const Guest target = sim::MakeTarget(kernel_, VmType::kSwProtected, waiting.memory.borrow());
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), waiting.vm.borrow()), -EINVAL);
  EXPECT_EQ(MoveTo(waiting), 0);
  EXPECT_EQ(kernel_.Move(target.vm.borrow(), waiting.vm.borrow()), 0);
  EXPECT_EQ(Load(target, kGuestGpa), kSecret);
}

TEST_F(MoveTest, RefusedTargetMayTryAgain) {
  const Guest target = MakeEmptyTarget();
  ExpectRefused(target);
  ASSERT_EQ(kernel_.Bind(target.vm.borrow(), 0, kGuestGpa, kGuestSize, target.memory.borrow()), 0);
  EXPECT_EQ(MoveTo(target), 0);
  EXPECT_EQ(Load(target, kGuestGpa), kSecret);
}

TEST_F(MoveTest, RunningSourceBlocksMoveUntilKicked) {
  const Guest target = MakeTarget();
  const BorrowedFd vcpu = source_.vcpus[0].borrow();
  kvm_run* run = kernel_.Map(vcpu);
  int run_result = 0;
  std::thread runner(
      [&] { run_result = kernel_.Run(vcpu, Program::kCount, kGuestGpa + 8).result; });
  std::atomic<bool> moved = false;
  // The counter moving proves that the vCPU is inside KVM_RUN.
  UniqueFd observer(fcntl(source_.memory.borrow().raw(), F_DUPFD_CLOEXEC, 0));
  const auto count = [&] {
    uint64_t value = 0;
    EXPECT_EQ(pread(observer.borrow().raw(), &value, sizeof(value), 8), 8);
    return value;
  };
  ASSERT_TRUE(Eventually([&] { return count() > 0; }));
  int move_result = -1;
  std::thread mover([&] {
    move_result = MoveTo(target);
    moved = true;
  });
  const uint64_t before = count();
  ASSERT_TRUE(Eventually([&] { return count() > before + 100'000; }));
  EXPECT_FALSE(moved) << "MOVE must wait for KVM_RUN";
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
  runner.join();
  mover.join();
  EXPECT_EQ(run_result, -EINTR);
  EXPECT_EQ(move_result, 0);
}

}  // namespace
}  // namespace rehome::sim
