// SPDX-License-Identifier: Apache-2.0
//
// The simulated kernel between processes: who may call what, and who may die when.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kSecret = 0xdeadbeef;

// The order in which MakeGuestFds() hands a guest's descriptors over.
constexpr size_t kVm = 0;
constexpr size_t kMemory = 1;
constexpr size_t kVcpu = 2;

std::vector<BorrowedFd> Descriptors(const Guest& guest) {
  return {guest.vm.borrow(), guest.memory.borrow(), guest.vcpus[0].borrow()};
}

// A VMM: makes a guest that knows the secret, hands its descriptors over, and does as told.
int RunSource(BorrowedFd socket, const std::function<int(TestKernel&, const Guest&)>& then) {
  TestKernel kernel;
  const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  if (kernel.Run(guest.vcpus[0].borrow(), Program::kStore, kGuestGpa, kSecret).result != 0)
    return 1;
  if (!Send(socket, Descriptors(guest))) return 2;
  return then(kernel, guest);
}

int WaitForWord(BorrowedFd socket) { return Receive(socket) ? 0 : 3; }

// Another VMM: takes the guest over from the descriptors that it is given.
int RunTarget(BorrowedFd socket, const std::function<int(TestKernel&, const Guest&)>& then) {
  std::vector<UniqueFd> source;
  if (!Receive(socket, &source) || source.size() < 2) return 4;
  TestKernel kernel;
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source[kMemory].borrow());
  if (kernel.Move(target.vm.borrow(), source[kVm].borrow()) != 0) return 5;
  return then(kernel, target);
}

int ReadSecret(TestKernel& kernel, const Guest& guest) {
  const RunResult run = kernel.Run(guest.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
  return run.result == 0 && run.regs.rcx == kSecret ? 0 : 6;
}

std::vector<UniqueFd> Receive3(const Child& child) {
  std::vector<UniqueFd> fds;
  EXPECT_TRUE(Receive(child.socket(), &fds));
  EXPECT_EQ(fds.size(), 3u);
  fds.resize(3);
  return fds;
}

std::vector<BorrowedFd> Borrow(const std::vector<UniqueFd>& fds) {
  std::vector<BorrowedFd> borrowed;
  for (const UniqueFd& fd : fds) borrowed.push_back(fd.borrow());
  return borrowed;
}

// ---- the mm rule

TEST(AddressSpaceRuleTest, VmAndVcpuIoctlsOfAnotherProcessAreEio) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel&, const Guest&) { return WaitForWord(socket); });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  TestKernel kernel;
  kvm_regs regs;
  EXPECT_EQ(kernel.Call(fds[kVm].borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
  EXPECT_EQ(kernel.Call(fds[kVm].borrow(), KVM_CREATE_VCPU, 1ul), -EIO);
  EXPECT_EQ(kernel.TryCreateGuestMemfd(fds[kVm].borrow(), 4096, 0), -EIO);
  EXPECT_EQ(kernel.Call(fds[kVcpu].borrow(), KVM_RUN, 0ul), -EIO);
  EXPECT_EQ(kernel.Call(fds[kVcpu].borrow(), KVM_GET_REGS, &regs), -EIO);
  ASSERT_TRUE(Send(source.socket()));
  EXPECT_EQ(source.Wait(), 0);
  // Also when the creator is gone.
  EXPECT_EQ(kernel.Call(fds[kVm].borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
}

TEST(AddressSpaceRuleTest, ForkedChildIsAnotherProcess) {
  TestKernel kernel;
  const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  Child child([&](BorrowedFd) {
    EXPECT_EQ(kernel.Call(guest.vm.borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
    EXPECT_EQ(kernel.Call(guest.vcpus[0].borrow(), KVM_RUN, 0ul), -EIO);
    // What it creates itself is its own.
    const Guest own = MakeGuest(kernel, VmType::kSwProtected);
    EXPECT_EQ(kernel.Run(own.vcpus[0].borrow(), Program::kHalt).result, 0);
    return 0;
  });
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_EQ(kernel.Run(guest.vcpus[0].borrow(), Program::kHalt).result, 0);
}

TEST(AddressSpaceRuleTest, RunAreaCanBeMappedAnywhere) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel& kernel, const Guest& guest) {
      const RunResult run = kernel.Run(guest.vcpus[0].borrow(), Program::kSpin);
      return run.result == -EINTR ? 0 : 7;
    });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  TestKernel kernel;
  kvm_run* run = kernel.Map(fds[kVcpu].borrow());
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
  EXPECT_EQ(source.Wait(), 0) << "immediate_exit of another process must reach the vCPU";
}

TEST(AddressSpaceRuleTest, GuestMemfdOfAnotherVmCannotBeBoundEvenWhenOrphaned) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [](TestKernel&, const Guest&) { return 0; });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  EXPECT_EQ(source.Wait(), 0);
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kSwProtected);
  EXPECT_EQ(kernel.Bind(vm.borrow(), 0, 0, 4096, fds[kMemory].borrow()), -EINVAL);
  EXPECT_GE(UniqueFd(kernel.TryLink(vm.borrow(), fds[kMemory].borrow())).borrow().raw(), 0);
}

// ---- moving between processes

TEST(MoveBetweenProcessesTest, TargetContinuesWithTheSourcesMemory) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel& kernel, const Guest& guest) {
      if (WaitForWord(socket) != 0) return 3;
      return kernel.Call(guest.vm.borrow(), KVM_CHECK_EXTENSION, 0ul) == -EIO ? 0 : 8;
    });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  Child target([](BorrowedFd socket) { return RunTarget(socket, ReadSecret); });
  ASSERT_TRUE(Send(target.socket(), Borrow(fds)));
  EXPECT_EQ(target.Wait(), 0);
  ASSERT_TRUE(Send(source.socket()));
  EXPECT_EQ(source.Wait(), 0) << "the source must find itself dead";
}

TEST(MoveBetweenProcessesTest, SourceWhoseOwnerWasKilledCanBeMovedFrom) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel&, const Guest&) { return WaitForWord(socket); });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  source.Kill();
  EXPECT_EQ(source.Wait(), 128 + SIGKILL);
  Child target([](BorrowedFd socket) { return RunTarget(socket, ReadSecret); });
  ASSERT_TRUE(Send(target.socket(), Borrow(fds)));
  EXPECT_EQ(target.Wait(), 0);
}

TEST(MoveBetweenProcessesTest, OwnerKilledInsideKvmRunReleasesTheVcpu) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [](TestKernel& kernel, const Guest& guest) {
      return kernel.Run(guest.vcpus[0].borrow(), Program::kCount, kGuestGpa + 8).result;
    });
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  ASSERT_TRUE(Eventually([&] {
    uint64_t count = 0;
    EXPECT_EQ(pread(fds[kMemory].borrow().raw(), &count, sizeof(count), 8), 8);
    return count > 1000;
  })) << "the source must be inside KVM_RUN";
  source.Kill();
  EXPECT_EQ(source.Wait(), 128 + SIGKILL);
  Child target([](BorrowedFd socket) { return RunTarget(socket, ReadSecret); });
  ASSERT_TRUE(Send(target.socket(), Borrow(fds)));
  EXPECT_EQ(target.Wait(), 0);
}

TEST(MoveBetweenProcessesTest, MoveNeedsTheSourcesMemoryToBeHeldBySomebody) {
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel&, const Guest&) { return WaitForWord(socket); });
  });
  std::vector<UniqueFd> fds = Receive3(source);
  TestKernel kernel;
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, fds[kMemory].borrow());
  fds[kMemory].Reset();
  source.Kill();
  EXPECT_EQ(source.Wait(), 128 + SIGKILL);
  // The inode lives by the target's link, but the source's binding went with its last file.
  EXPECT_EQ(kernel.Move(target.vm.borrow(), fds[kVm].borrow()), -EINVAL);
}

// The design's rescue: S -> T, T dies before its first run, R takes over from T's files.
class RescueTest : public ::testing::TestWithParam<bool> {};

TEST_P(RescueTest, DeadTargetIsReplacedFromItsOwnFiles) {
  const bool kill_source_before_the_move = GetParam();
  Child source([](BorrowedFd socket) {
    return RunSource(socket, [&](TestKernel&, const Guest&) { return WaitForWord(socket); });
  });
  const std::vector<UniqueFd> source_fds = Receive3(source);
  if (kill_source_before_the_move) {
    source.Kill();
    EXPECT_EQ(source.Wait(), 128 + SIGKILL);
  }
  Child target([](BorrowedFd socket) {
    return RunTarget(socket, [&](TestKernel&, const Guest& guest) {
      return Send(socket, Descriptors(guest)) ? WaitForWord(socket) : 2;
    });
  });
  ASSERT_TRUE(Send(target.socket(), Borrow(source_fds)));
  const std::vector<UniqueFd> target_fds = Receive3(target);
  target.Kill();
  EXPECT_EQ(target.Wait(), 128 + SIGKILL);

  Child rescuer([](BorrowedFd socket) { return RunTarget(socket, ReadSecret); });
  ASSERT_TRUE(Send(rescuer.socket(), Borrow(target_fds)));
  EXPECT_EQ(rescuer.Wait(), 0);
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutTheSource, RescueTest, ::testing::Bool());

TEST(MoveBetweenProcessesTest, ProtectedRegistersGoOnAfterTheOwnerWasKilledInKvmRun) {
  Child source([](BorrowedFd socket) {
    TestKernel kernel;
    const Guest guest = MakeGuest(kernel, VmType::kTdx);
    for (int i = 0; i < 3; ++i) kernel.ResumeToOut(guest.vcpus[0].borrow());
    if (!Send(socket, Descriptors(guest))) return 2;
    for (;;) kernel.ResumeToOut(guest.vcpus[0].borrow());
  });
  const std::vector<UniqueFd> fds = Receive3(source);
  source.Kill();
  EXPECT_EQ(source.Wait(), 128 + SIGKILL);
  TestKernel kernel;
  const Guest target = MakeTarget(kernel, VmType::kTdx, fds[kMemory].borrow());
  ASSERT_EQ(kernel.Move(target.vm.borrow(), fds[kVm].borrow()), 0);
  const uint32_t next = kernel.ResumeToOut(target.vcpus[0].borrow());
  EXPECT_GT(next, 3u);
  EXPECT_EQ(kernel.ResumeToOut(target.vcpus[0].borrow()), next + 1);
}

// Kills movers at random places; whatever is left must be one owner and one guest.
TEST(MoveBetweenProcessesTest, KilledMoverLeavesExactlyOneOwner) {
  constexpr int kRounds = 60;
  int moved = 0;
  for (int round = 0; round < kRounds; ++round) {
    TestKernel kernel;
    const Guest source = MakeGuest(kernel, VmType::kSwProtected);
    ASSERT_EQ(kernel.Run(source.vcpus[0].borrow(), Program::kStore, kGuestGpa, kSecret).result, 0);
    Child mover([&](BorrowedFd socket) {
      TestKernel own;
      const Guest target = MakeTarget(own, VmType::kSwProtected, source.memory.borrow());
      if (!Send(socket, Descriptors(target))) return 2;
      own.Move(target.vm.borrow(), source.vm.borrow());
      return WaitForWord(socket);
    });
    const std::vector<UniqueFd> target = Receive3(mover);
    // From "not begun" to "long done", in steps of about a microsecond.
    const uint64_t start = __rdtsc();
    while (__rdtsc() - start < static_cast<uint64_t>(round) * 2500) continue;
    mover.Kill();
    EXPECT_EQ(mover.Wait(), 128 + SIGKILL);

    const bool source_dead = kernel.Call(source.vm.borrow(), KVM_CHECK_EXTENSION, 0ul) == -EIO;
    moved += source_dead ? 1 : 0;
    const Guest rescuer = MakeTarget(kernel, VmType::kSwProtected, target[kMemory].borrow());
    const int from_target = kernel.Move(rescuer.vm.borrow(), target[kVm].borrow());
    EXPECT_EQ(from_target, source_dead ? 0 : -EINVAL) << "round " << round;
    EXPECT_EQ(ReadSecret(kernel, source_dead ? rescuer : source), 0) << "round " << round;
  }
  RecordProperty("moved", moved);
}

}  // namespace
}  // namespace rehome::sim
