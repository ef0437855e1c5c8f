// SPDX-License-Identifier: Apache-2.0
//
// Moves from several threads at once: no deadlock, and each guest has one owner at the end.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "kvmglue/sim/move.h"
#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kSecret = 0xdeadbeef;

bool IsDead(TestKernel& kernel, const Guest& guest) {
  return kernel.Call(guest.vm.borrow(), KVM_CHECK_EXTENSION, 0ul) == -EIO;
}

TEST(MoveConcurrencyTest, OppositeMovesDoNotDeadlock) {
  constexpr int kRounds = 300;
  TestKernel kernel;
  int moved = 0;
  for (int round = 0; round < kRounds; ++round) {
    const Guest a = MakeGuest(kernel, VmType::kSwProtected);
    const Guest b = MakeTarget(kernel, VmType::kSwProtected, a.memory.borrow());
    int forth = 0, back = 0;
    testing::AtOnce([&] { forth = kernel.Move(b.vm.borrow(), a.vm.borrow()); },
                    [&] { back = kernel.Move(a.vm.borrow(), b.vm.borrow()); });
    // `back` alone has nothing to take (EINVAL), finds itself dead (EIO), or is too late to
    // `forth`.
    EXPECT_TRUE(forth == 0 || forth == -EBUSY) << forth;
    EXPECT_TRUE(back == -EINVAL || back == -EBUSY || back == -EIO) << back;
    EXPECT_EQ(IsDead(kernel, a), forth == 0);
    EXPECT_FALSE(IsDead(kernel, b));
    moved += forth == 0 ? 1 : 0;
  }
  EXPECT_GT(moved, 0);
}

TEST(MoveConcurrencyTest, OnlyOneOfTwoTargetsGetsTheGuest) {
  constexpr int kRounds = 300;
  TestKernel kernel;
  for (int round = 0; round < kRounds; ++round) {
    const Guest source = MakeGuest(kernel, VmType::kSwProtected);
    ASSERT_EQ(kernel.Run(source.vcpus[0].borrow(), Program::kStore, kGuestGpa, kSecret).result, 0);
    const Guest left = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
    const Guest right = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
    int results[2];
    testing::AtOnce([&] { results[0] = kernel.Move(left.vm.borrow(), source.vm.borrow()); },
                    [&] { results[1] = kernel.Move(right.vm.borrow(), source.vm.borrow()); });
    EXPECT_EQ((results[0] == 0) + (results[1] == 0), 1) << results[0] << ", " << results[1];
    const int loser = results[0] == 0 ? results[1] : results[0];
    EXPECT_TRUE(loser == -EBUSY || loser == -EIO) << loser;
    EXPECT_TRUE(IsDead(kernel, source));
    const Guest& owner = results[0] == 0 ? left : right;
    EXPECT_EQ(kernel.Run(owner.vcpus[0].borrow(), Program::kLoad, kGuestGpa).regs.rcx, kSecret);
  }
}

TEST(MoveConcurrencyTest, BusyMoveLeavesBothSidesUnchanged) {
  TestKernel kernel;
  const Guest source = MakeGuest(kernel, VmType::kSwProtected);
  const Guest left = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  const Guest right = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  kvm_run* run = kernel.Map(source.vcpus[0].borrow());
  std::thread runner([&] { kernel.Run(source.vcpus[0].borrow(), Program::kCount, kGuestGpa); });
  ASSERT_TRUE(Eventually([&] {
    uint64_t count = 0;
    EXPECT_EQ(pread(source.memory.borrow().raw(), &count, sizeof(count), 0), 8);
    return count > 0;
  }));
  // The first move waits for the vCPU and holds the mark meanwhile. Whether it does is asked by
  // making a mirror of the source, which is never possible, but which the mark refuses first.
  int first = -EBUSY;
  std::thread mover([&] {
    while (first == -EBUSY) first = kernel.Move(left.vm.borrow(), source.vm.borrow());
  });
  const UniqueFd prober = kernel.CreateVm(VmType::kDefault);
  ASSERT_TRUE(Eventually([&] {
    kvm_enable_cap mirror = {};
    mirror.cap = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM;
    mirror.args[0] = static_cast<uint32_t>(source.vm.borrow().raw());
    return kernel.Call(prober.borrow(), KVM_ENABLE_CAP, &mirror) == -EBUSY;
  }));
  EXPECT_EQ(kernel.Move(right.vm.borrow(), source.vm.borrow()), -EBUSY);
  EXPECT_EQ(kernel.Move(left.vm.borrow(), right.vm.borrow()), -EBUSY) << "the target's mark counts";
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
  runner.join();
  mover.join();
  EXPECT_EQ(first, 0);
}

TEST(MoveConcurrencyTest, ManyMovesAmongThreeVmsDoNotDeadlock) {
  // sev_migrate_tests.c, test_sev_migrate_locking: every thread moves every VM to every other.
  constexpr int kThreads = 3;
  constexpr int kIterations = 10'000;
  TestKernel kernel;
  UniqueFd vms[kThreads];
  for (UniqueFd& vm : vms) {
    vm = kernel.CreateVm(VmType::kSev);
    kvm_sev_init init = {};
    kvm_sev_cmd command = {};
    command.id = KVM_SEV_INIT2;
    command.data = reinterpret_cast<uint64_t>(&init);
    ASSERT_EQ(kernel.Call(vm.borrow(), KVM_MEMORY_ENCRYPT_OP, &command), 0);
  }
  std::vector<std::thread> threads;
  std::atomic<int> refused = 0;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kIterations; ++i) {
        const int other = (t + 1 + i % (kThreads - 1)) % kThreads;
        refused += kernel.Move(vms[t].borrow(), vms[other].borrow()) < 0 ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // All have a context, so no move may succeed: they meet in the locks only.
  EXPECT_EQ(refused, kThreads * kIterations);
}

TEST(MoveConcurrencyTest, GuestsWanderWhileVmsAreClosedInAnyOrder) {
  constexpr int kThreads = 3;
  constexpr int kHops = 200;
  TestKernel kernel;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&kernel, t] {
      std::minstd_rand random(t);
      std::vector<Guest> alive;
      alive.push_back(MakeGuest(kernel, VmType::kSwProtected));
      for (int hop = 0; hop < kHops; ++hop) {
        alive.push_back(MakeTarget(kernel, VmType::kSwProtected, alive.back().memory.borrow()));
        const Guest& target = alive.back();
        const Guest& source = alive[alive.size() - 2];
        ASSERT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), 0);
        const RunResult run = kernel.Run(target.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
        ASSERT_EQ(run.regs.rcx, static_cast<uint64_t>(hop));
        ASSERT_EQ(kernel.Run(target.vcpus[0].borrow(), Program::kStore, kGuestGpa, hop + 1).result,
                  0);
        // Any of the dead ones, at any time.
        while (alive.size() > 1 && random() % 2 == 0) {
          alive.erase(alive.begin() + static_cast<long>(random() % (alive.size() - 1)));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(MoveConcurrencyTest, SlotsMayChangeWhileVcpusRun) {
  TestKernel kernel;
  const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  kvm_run* run = kernel.Map(guest.vcpus[0].borrow());
  int result = 0;
  std::thread runner(
      [&] { result = kernel.Run(guest.vcpus[0].borrow(), Program::kCount, kGuestGpa).result; });
  constexpr int kRounds = 200;
  for (int i = 0; i < kRounds; ++i) {
    HostPages pages(0x10000);
    kvm_userspace_memory_region2 region = {.slot = 5,
                                           .guest_phys_addr = 0x10000000,
                                           .memory_size = 0x10000,
                                           .userspace_addr = pages.address()};
    ASSERT_EQ(kernel.TrySetRegion(guest.vm.borrow(), region), 0);
    ASSERT_EQ(kernel.SetPrivate(guest.vm.borrow(), 0x10000000, 0x1000, i % 2 == 0), 0);
    region.memory_size = 0;
    ASSERT_EQ(kernel.TrySetRegion(guest.vm.borrow(), region), 0);
  }
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
  runner.join();
  EXPECT_EQ(result, -EINTR);
}

TEST(MoveConcurrencyTest, DeletedSlotIsNotTouchedAfterTheCallReturns) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow());
  constexpr int kRounds = 100;
  for (int i = 0; i < kRounds; ++i) {
    HostPages pages(4096);
    kvm_userspace_memory_region2 region = {
        .slot = 0, .memory_size = 4096, .userspace_addr = pages.address()};
    ASSERT_EQ(kernel.TrySetRegion(vm.borrow(), region), 0);
    RunResult run;
    std::thread runner([&] { run = kernel.Run(vcpu.borrow(), Program::kCount, 0); });
    ASSERT_TRUE(Eventually([&] { return __atomic_load_n(&pages.word(0), __ATOMIC_RELAXED) > 0; }));
    region.memory_size = 0;
    ASSERT_EQ(kernel.TrySetRegion(vm.borrow(), region), 0);
    pages.Unmap();  // SIGSEGV in the vCPU thread if a step still used it
    runner.join();
    EXPECT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_INTERNAL_ERROR));
  }
}

}  // namespace
}  // namespace rehome::sim
