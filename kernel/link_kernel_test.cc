// SPDX-License-Identifier: Apache-2.0
//
// What the conformance suite cannot ask of three kernels alike: races, and what lies below the ABI.
// Runs inside the kernel under test (./dev kernel test), never on the machine that builds.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernel/private_vm.h"

namespace rehome::testing {
namespace {

constexpr uint32_t kSlot = 1;
constexpr uint64_t kSlotBytes = 2 * kMiB;
constexpr uint32_t kShared = 0x5a5a5a5a, kSecret = 0xdeadbeef;
// Enough for each outcome of a race to be seen in a run of some seconds.
constexpr int kRounds = 40;

// A VM with one private slot, and its memory.
struct Guest {
  explicit Guest(uint32_t vcpus = 1) : vm(vcpus), shared(kSlotBytes) { shared.Fill(kShared); }

  // The first of its line.
  void Create() {
    memory = vm.CreateGuestMemfd(kSlotBytes);
    ASSERT_TRUE(memory.valid()) << errno;
    ASSERT_EQ(vm.Bind(kSlot, kPrivateGpa, shared, memory.borrow()), 0);
    ASSERT_EQ(vm.SetPrivate(kPrivateGpa, kSlotBytes, true), 0);
  }
  void LinkAndBind(const Guest& source) {
    memory = vm.Link(source.memory.borrow());
    ASSERT_TRUE(memory.valid()) << errno;
    ASSERT_EQ(vm.Bind(kSlot, kPrivateGpa, shared, memory.borrow()), 0);
  }

  PrivateVm vm;
  SharedMemory shared;
  UniqueFd memory;
};

// Waits for `done`; false after 30 s, which is long even under emulation.
bool Eventually(const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(LinkKernelTest, CapabilityIsThereForTheTypeThatCanBeMoved) {
  constexpr unsigned long kCapLinkGuestMemfd = 10001;
  PrivateVm can(0);
  PrivateVm cannot(0, KVM_X86_DEFAULT_VM);
  EXPECT_EQ(can.CheckExtension(kCapLinkGuestMemfd), 1);
  EXPECT_EQ(cannot.CheckExtension(kCapLinkGuestMemfd), 0);
}

TEST(LinkKernelTest, HugeSharedMappingDoesNotCoverAPrivatePageThatWasMoved) {
  Guest source, target;
  source.memory = source.vm.CreateGuestMemfd(kSlotBytes);
  ASSERT_TRUE(source.memory.valid());
  ASSERT_EQ(source.vm.Bind(kSlot, kPrivateGpa, source.shared, source.memory.borrow()), 0);
  const uint64_t secret = kPrivateGpa + 5 * kPage;
  ASSERT_EQ(source.vm.SetPrivate(secret, kPage, true), 0);
  ASSERT_EQ(source.vm.vcpu().Write(secret, kSecret).error, 0);
  ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
  ASSERT_EQ(target.vm.MoveFrom(source.vm.fd()), 0);

  // The first access maps as much as KVM thinks it may.
  EXPECT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kShared);
  EXPECT_EQ(target.vm.vcpu().Read(secret).value, kSecret);
  EXPECT_EQ(target.vm.vcpu().Read(secret + kPage).value, kShared);
}

TEST(LinkKernelTest, WhatTheTargetMappedAsSharedBeforeIsPrivateAfter) {
  Guest source, target;
  ASSERT_NO_FATAL_FAILURE(source.Create());
  ASSERT_EQ(source.vm.vcpu().Write(kPrivateGpa, kSecret).error, 0);
  ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
  ASSERT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kShared);
  ASSERT_EQ(target.vm.MoveFrom(source.vm.fd()), 0);
  EXPECT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kSecret);
}

TEST(LinkKernelTest, AttributesOfTheTargetAreReplaced) {
  Guest source, target;
  ASSERT_NO_FATAL_FAILURE(source.Create());
  ASSERT_EQ(source.vm.SetPrivate(kPrivateGpa, kPage, false), 0);
  ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
  ASSERT_EQ(target.vm.SetPrivate(kPrivateGpa, kPage, true), 0);
  ASSERT_EQ(target.vm.MoveFrom(source.vm.fd()), 0);
  EXPECT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kShared);
  EXPECT_EQ(target.vm.vcpu().Read(kPrivateGpa + kPage).value, 0u);
}

TEST(LinkKernelTest, EveryOtherFileOfTheInodeSleepsAfterAMove) {
  constexpr uint32_t kSpareSlot = 2;
  constexpr uint64_t kSpareGpa = kPrivateGpa + kSlotBytes;
  Guest first, second, third;
  SharedMemory beside(kSlotBytes);
  // The first VM has two slots of one file, the second a file for each: a move wakes both.
  first.memory = first.vm.CreateGuestMemfd(2 * kSlotBytes);
  ASSERT_TRUE(first.memory.valid());
  ASSERT_EQ(first.vm.Bind(kSlot, kPrivateGpa, first.shared, first.memory.borrow()), 0);
  ASSERT_EQ(first.vm.Bind(kSpareSlot, kSpareGpa, beside, first.memory.borrow(), kSlotBytes), 0);
  ASSERT_EQ(first.vm.SetPrivate(kPrivateGpa, kSlotBytes, true), 0);
  ASSERT_EQ(first.vm.vcpu().Write(kPrivateGpa, kSecret).error, 0);
  ASSERT_NO_FATAL_FAILURE(second.LinkAndBind(first));
  const UniqueFd spare = second.vm.Link(first.memory.borrow());
  ASSERT_EQ(second.vm.Bind(kSpareSlot, kSpareGpa, beside, spare.borrow(), kSlotBytes), 0);
  ASSERT_EQ(second.vm.MoveFrom(first.vm.fd()), 0);
  ASSERT_EQ(Populate(spare.borrow(), 0, kPage), 0);
  // Then it lets go of one, which the next move does not find among the bindings.
  ASSERT_EQ(second.vm.Unbind(kSpareSlot), 0);
  ASSERT_NO_FATAL_FAILURE(third.LinkAndBind(second));
  ASSERT_EQ(third.vm.MoveFrom(second.vm.fd()), 0);
  for (const BorrowedFd file : {first.memory.borrow(), second.memory.borrow(), spare.borrow()}) {
    EXPECT_EQ(Punch(file, 0, kPage), EPERM);
    EXPECT_EQ(Populate(file, 0, kPage), EPERM);
  }
  EXPECT_EQ(third.vm.vcpu().Read(kPrivateGpa).value, kSecret);
  EXPECT_EQ(Punch(third.memory.borrow(), 0, kPage), 0);
  EXPECT_EQ(third.vm.vcpu().Read(kPrivateGpa).value, 0u);
}

// The hole is asked for before the move, or after it: never is it punched after. Several threads
// punch, so that some wait for the inode's lock while the move takes it.
TEST(LinkKernelTest, NoHoleOfTheSourceIsPunchedAfterTheMove) {
  constexpr int kPunchers = 4;
  for (int round = 0; round < kRounds; ++round) {
    Guest source, target;
    ASSERT_NO_FATAL_FAILURE(source.Create());
    ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
    std::atomic<int> punching = 0, refused = 0;
    std::atomic<bool> stop = false;
    std::vector<std::thread> punchers;
    for (int i = 0; i < kPunchers; ++i) {
      punchers.emplace_back([&] {
        ++punching;
        int error = 0;
        while (!stop && error == 0) error = Punch(source.memory.borrow(), 0, kPage);
        if (error == EPERM) ++refused;
      });
    }
    const bool all_began = Eventually([&] { return punching == kPunchers; });
    const int moved = target.vm.MoveFrom(source.vm.fd());
    const Exit written = target.vm.vcpu().Write(kPrivateGpa, kSecret);
    if (moved != 0) stop = true;
    for (std::thread& puncher : punchers) puncher.join();
    ASSERT_TRUE(all_began);
    ASSERT_EQ(moved, 0);
    ASSERT_EQ(written.error, 0);
    ASSERT_EQ(refused, kPunchers);
    ASSERT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kSecret) << "round " << round;
  }
}

TEST(LinkKernelTest, OfOppositeMovesAtTheSameTimeOneWinsAndNoneWaitsForEver) {
  int busy = 0;
  for (int round = 0; round < kRounds; ++round) {
    // Without private memory each could be moved to the other.
    PrivateVm one(2), other(2);
    // In shared memory, which both have at the same place.
    constexpr uint64_t kCounter = 0x8000;
    Spinner spins_one(one.vcpu(), kCounter), spins_other(other.vcpu(), kCounter);
    int to_one = 0, to_other = 0;
    std::thread mover([&] { to_one = one.MoveFrom(other.fd()); });
    std::thread opposite([&] { to_other = other.MoveFrom(one.fd()); });
    spins_one.Kick();
    spins_other.Kick();
    const Exit end_of_one = spins_one.Stop(), end_of_other = spins_other.Stop();
    mover.join();
    opposite.join();
    ASSERT_TRUE((to_one == 0) != (to_other == 0)) << to_one << " " << to_other;
    const int loser = to_one == 0 ? to_other : to_one;
    ASSERT_TRUE(loser == EBUSY || loser == EIO) << loser;
    busy += loser == EBUSY ? 1 : 0;
    ASSERT_EQ(one.Probe(), to_one == 0 ? 0 : EIO);
    ASSERT_EQ(other.Probe(), to_other == 0 ? 0 : EIO);
    // Either was in KVM_RUN when the move began, or came too late.
    ASSERT_TRUE(end_of_one.error == EINTR || (to_other == 0 && end_of_one.error == EIO));
    ASSERT_TRUE(end_of_other.error == EINTR || (to_one == 0 && end_of_other.error == EIO));
  }
  RecordProperty("busy", busy);
}

TEST(LinkKernelTest, AMoveThatWaitsForAVcpuCanBeKilled) {
  Guest source;
  ASSERT_NO_FATAL_FAILURE(source.Create());
  Spinner spinner(source.vm.vcpu(), kPrivateGpa);
  // In a process of its own, which SIGKILL ends.
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Guest target;
    target.LinkAndBind(source);
    const ssize_t told = HasFatalFailure() ? 0 : write(ready[1], "", 1);
    if (told == 1) target.vm.MoveFrom(source.vm.fd());
    _exit(0);
  }
  close(ready[1]);
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1) << "no target";
  close(ready[0]);
  // Asleep where only a fatal signal wakes it: in the ioctl.
  ASSERT_TRUE(Eventually([&] {
    std::ifstream file("/proc/" + std::to_string(child) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    return text.find(") D ") != std::string::npos;
  }));
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(spinner.Stop().error, EINTR);
  EXPECT_EQ(source.vm.Probe(), 0);
}

TEST(LinkKernelTest, AVmThatDiedWhileItsVcpuWaitedDoesNotRun) {
  for (int round = 0; round < kRounds; ++round) {
    Guest source, target;
    ASSERT_NO_FATAL_FAILURE(source.Create());
    ASSERT_EQ(source.vm.vcpu().Write(kPrivateGpa, 0).error, 0);
    ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
    std::atomic<bool> stop = false;
    int last = 0;
    // Comes and goes, so that the move finds it at any place.
    std::thread runner([&] {
      while (!stop && last == 0) last = source.vm.vcpu().Write(kPrivateGpa, kShared).error;
    });
    const int moved = target.vm.MoveFrom(source.vm.fd());
    const Exit written = target.vm.vcpu().Write(kPrivateGpa, kSecret);
    if (moved != 0) stop = true;
    runner.join();
    ASSERT_EQ(moved, 0);
    ASSERT_EQ(last, EIO);
    ASSERT_EQ(written.error, 0);
    ASSERT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kSecret);
  }
}

TEST(LinkKernelTest, ChainOfMovesKeepsTheMemoryWhateverIsClosedWhen) {
  auto owner = std::make_unique<Guest>();
  ASSERT_NO_FATAL_FAILURE(owner->Create());
  ASSERT_EQ(owner->vm.vcpu().Write(kPrivateGpa, kSecret).error, 0);
  std::vector<std::unique_ptr<Guest>> old;
  for (int hop = 0; hop < kRounds; ++hop) {
    auto next = std::make_unique<Guest>();
    ASSERT_NO_FATAL_FAILURE(next->LinkAndBind(*owner));
    ASSERT_EQ(next->vm.MoveFrom(owner->vm.fd()), 0) << hop;
    ASSERT_EQ(next->vm.vcpu().Read(kPrivateGpa).value, kSecret) << hop;
    old.push_back(std::move(owner));
    owner = std::move(next);
    if (hop % 3 == 0) old.erase(old.begin() + static_cast<long>(old.size() / 2));
    if (hop % 3 == 1) old.back()->memory.Reset();
    ASSERT_EQ(owner->vm.vcpu().Read(kPrivateGpa).value, kSecret) << hop;
  }
}

// A hole looks at the slots of all files of the inode. A slot that is deleted while the last
// reference to its file goes away must not be among them any more: the kernel frees it.
TEST(LinkKernelTest, NoHoleSeesTheSlotOfALinkThatEndsInThatMoment) {
  // The deletion holds the locks that the close waits for, so most rounds meet.
  constexpr int kManyRounds = 5 * kRounds;
  Guest source, target;
  ASSERT_NO_FATAL_FAILURE(source.Create());
  std::atomic<bool> stop = false;
  std::atomic<int> holes = 0, refused = 0;
  std::thread puncher([&] {
    while (!stop) ++(Punch(source.memory.borrow(), 0, kSlotBytes) == 0 ? holes : refused);
  });
  int failures = 0, in_vain = 0;
  for (int round = 0; round < kManyRounds && failures == 0; ++round) {
    target.LinkAndBind(source);
    if (::testing::Test::HasFatalFailure()) break;
    std::atomic<bool> go = false;
    const int before = holes;
    std::thread closer([&] {
      while (!go) std::this_thread::yield();
      target.memory.Reset();
    });
    go = true;
    failures += target.vm.Unbind(kSlot) == 0 ? 0 : 1;
    closer.join();
    in_vain += holes == before ? 1 : 0;
  }
  stop = true;
  puncher.join();
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(refused, 0) << "the memory is the source's";
  EXPECT_LT(in_vain, kManyRounds) << "no hole was ever punched meanwhile";
  RecordProperty("holes", holes);

  // Nothing of them is left in the way of a move.
  ASSERT_EQ(source.vm.vcpu().Write(kPrivateGpa, kSecret).error, 0);
  ASSERT_NO_FATAL_FAILURE(target.LinkAndBind(source));
  ASSERT_EQ(target.vm.MoveFrom(source.vm.fd()), 0);
  EXPECT_EQ(target.vm.vcpu().Read(kPrivateGpa).value, kSecret);
}

// What guest_memfds have allocated: their pages are unevictable, and few others are.
uint64_t UnevictableMib() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  uint64_t kib = 0;
  while (file >> key) {
    if (key == "Unevictable:") return file >> kib, kib / 1024;
  }
  return 0;
}

TEST(LinkKernelTest, MemoryIsFreedWithTheLastFileAndNotBefore) {
  // Much against what earlier tests leave in per-CPU lists.
  constexpr uint64_t kMib = 64, kNoise = 16;
  const uint64_t before = UnevictableMib();
  auto source = std::make_unique<PrivateVm>(0);
  PrivateVm target(0);
  UniqueFd memory = source->CreateGuestMemfd(kMib * kMiB);
  ASSERT_EQ(Populate(memory.borrow(), 0, kMib * kMiB), 0);
  UniqueFd link = target.Link(memory.borrow());
  ASSERT_TRUE(link.valid());
  memory.Reset();
  source = nullptr;
  EXPECT_GE(UnevictableMib(), before + kMib - kNoise);
  link.Reset();
  EXPECT_TRUE(Eventually([&] { return UnevictableMib() <= before + kNoise; }))
      << before << " MiB before, " << UnevictableMib() << " after";
}

}  // namespace
}  // namespace rehome::testing
