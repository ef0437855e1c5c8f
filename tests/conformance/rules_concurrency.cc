// SPDX-License-Identifier: Apache-2.0
//
// MOVE while something else goes on: running vCPUs, and other moves.
#include <gtest/gtest.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <string>
#include <thread>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

// Enough to meet, few enough for an emulated kernel.
constexpr int kRounds = 30;
// How far a guest counts to show that it goes on.
constexpr uint32_t kGoesOn = 1000;

UniqueFd MakeDeadVm(Bench& bench) {
  UniqueFd dead = bench.CreateVm(VmType::kSwProtected);
  const UniqueFd heir = bench.CreateVm(VmType::kSwProtected);
  EXPECT_EQ(bench.Move(heir.borrow(), dead.borrow()), 0);
  return dead;
}

// A MOVE in a thread of its own.
class MoveUnderWay {
 public:
  // Returns when the call is seen to be inside, or is over.
  MoveUnderWay(Bench& bench, BorrowedFd destination, BorrowedFd source) {
    const UniqueFd dead = MakeDeadVm(bench);
    thread_ = std::thread([this, &bench, destination, source] {
      tid_ = gettid();
      // The question below may have the mark for a moment.
      while (result_ == -EBUSY) result_ = bench.Move(destination, source);
      returned_ = true;
    });
    // Whether it holds the mark of its VMs is asked with a source that is dead: EIO, before any
    // vCPU is waited for, but EBUSY before that.
    EXPECT_TRUE(
        Eventually([&] { return returned_ || bench.Move(destination, dead.borrow()) == -EBUSY; }));
  }
  ~MoveUnderWay() {
    if (thread_.joinable()) thread_.join();
  }

  bool returned() const { return returned_; }
  // Whether it has stopped going on by itself: one that is kept from a core has not.
  bool AsleepOrReturned() const {
    if (returned_) return true;
    // proc_pid_stat(5): the state follows the name, which is the program's.
    std::ifstream file("/proc/self/task/" + std::to_string(tid_) + "/stat");
    std::string line;
    std::getline(file, line);
    const size_t name_end = line.rfind(')');
    return name_end != std::string::npos && line.substr(name_end, 3) != ") R";
  }
  long Wait() {
    thread_.join();
    return result_;
  }

 private:
  long result_ = -EBUSY;
  std::atomic<pid_t> tid_ = 0;
  std::atomic<bool> returned_ = false;
  std::thread thread_;
};

// The move sleeps, and does so still after the guest has gone on: one that is only kept from a core
// for a while, or from a lock, has returned by then or is on its way.
void ExpectToWaitFor(const MoveUnderWay& move, Guest& running) {
  EXPECT_TRUE(Eventually([&] {
    if (!move.AsleepOrReturned()) return false;
    const uint32_t before = running.Counter();
    const bool went_on =
        Eventually([&] { return move.returned() || running.Counter() - before > kGoesOn; });
    return went_on && move.AsleepOrReturned();
  })) << "MOVE spins";
  EXPECT_FALSE(move.returned()) << "MOVE did not wait";
}

void WaitsForRunningVcpu(Bench& bench, bool runs_in_source) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  Guest& running = runs_in_source ? source : target;
  Counting counting(running);
  MoveUnderWay move(bench, target.vm.borrow(), source.vm.borrow());
  ExpectToWaitFor(move, running);
  const Ran ran = counting.Stop();
  EXPECT_EQ(move.Wait(), 0);
  EXPECT_EQ(ran.result, -EINTR) << "the vCPU leaves because it was told to";
  EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
  EXPECT_TRUE(bench.IsDead(source.vm.borrow()));
}

void WaitsForTheSource(Bench& bench) { WaitsForRunningVcpu(bench, true); }
void WaitsForTheTarget(Bench& bench) { WaitsForRunningVcpu(bench, false); }

void MoveUnderWayIsEbusy(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest left = MakeTarget(bench, source.memory.borrow());
  Guest right = MakeTarget(bench, source.memory.borrow());
  Counting counting(source);
  MoveUnderWay move(bench, left.vm.borrow(), source.vm.borrow());
  EXPECT_EQ(bench.Move(right.vm.borrow(), source.vm.borrow()), -EBUSY);
  EXPECT_EQ(bench.Move(left.vm.borrow(), right.vm.borrow()), -EBUSY);
  ExpectToWaitFor(move, source);
  counting.Stop();
  EXPECT_EQ(move.Wait(), 0);
  EXPECT_EQ(left.Load(kMemoryGpa).value, kSecret);
  EXPECT_EQ(bench.Move(right.vm.borrow(), left.vm.borrow()), 0) << "the mark is gone";
}

void OppositeMoves(Bench& bench) {
  for (int round = 0; round < kRounds; ++round) {
    Guest a = MakeSource(bench);
    Guest b = MakeTarget(bench, a.memory.borrow());
    long forth = 1, back = 1;
    testing::AtOnce([&] { forth = bench.Move(b.vm.borrow(), a.vm.borrow()); },
                    [&] { back = bench.Move(a.vm.borrow(), b.vm.borrow()); });
    EXPECT_TRUE(forth == 0 || forth == -EBUSY) << forth;
    // There is nothing to take (EINVAL), or nobody to take it (EIO).
    EXPECT_TRUE(back == -EINVAL || back == -EBUSY || back == -EIO) << back;
    EXPECT_EQ(bench.IsDead(a.vm.borrow()), forth == 0);
    EXPECT_FALSE(bench.IsDead(b.vm.borrow()));
    EXPECT_EQ((forth == 0 ? b : a).Load(kMemoryGpa).value, kSecret);
    if (forth != 0) {
      EXPECT_EQ(bench.Move(b.vm.borrow(), a.vm.borrow()), 0) << "nothing is stuck";
    }
    EXPECT_EQ(b.Load(kMemoryGpa).value, kSecret);
  }
}

void OneOfTwoTargets(Bench& bench) {
  for (int round = 0; round < kRounds; ++round) {
    Guest source = MakeSource(bench);
    Guest left = MakeTarget(bench, source.memory.borrow());
    Guest right = MakeTarget(bench, source.memory.borrow());
    long to_left = -EBUSY, to_right = -EBUSY;
    const auto until_decided = [&](Guest& target, long& result) {
      while (result == -EBUSY) result = bench.Move(target.vm.borrow(), source.vm.borrow());
    };
    testing::AtOnce([&] { until_decided(left, to_left); }, [&] { until_decided(right, to_right); });
    EXPECT_EQ(to_left + to_right, -EIO) << to_left << " " << to_right;
    Guest& winner = to_left == 0 ? left : right;
    EXPECT_EQ(winner.Load(kMemoryGpa).value, kSecret);
    EXPECT_FALSE(bench.IsDead(left.vm.borrow()) || bench.IsDead(right.vm.borrow()));
  }
}

void ManyMovesAmongThree(Bench& bench) {
  constexpr int kVms = 3;
  constexpr int kTries = 100;
  Guest owner = MakeSource(bench);
  Guest second = MakeTarget(bench, owner.memory.borrow());
  Guest third = MakeTarget(bench, owner.memory.borrow());
  Guest* const guests[kVms] = {&owner, &second, &third};
  std::atomic<int> moves = 0;
  std::thread threads[kVms];
  for (int t = 0; t < kVms; ++t) {
    threads[t] = std::thread([&, t] {
      for (int i = 0; i < kTries; ++i) {
        const int other = (t + 1 + i % (kVms - 1)) % kVms;
        if (bench.Move(guests[t]->vm.borrow(), guests[other]->vm.borrow()) == 0) ++moves;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // It moved at most from the first to the second or third, and on to the one that is left.
  EXPECT_LE(moves, kVms - 1);
  int alive_with_memory = 0;
  for (Guest* guest : guests) {
    if (bench.IsDead(guest->vm.borrow())) continue;
    ASSERT_EQ(bench.SetPrivate(guest->vm.borrow(), kMemoryGpa, kMemoryBytes, true), 0);
    const Ran ran = guest->Load(kMemoryGpa);
    alive_with_memory += ran.Halted() && ran.value == kSecret ? 1 : 0;
  }
  EXPECT_EQ(alive_with_memory, 1);
}

void HolesWhileMoving(Bench& bench) {
  for (int round = 0; round < kRounds; ++round) {
    Guest source = MakeSource(bench);
    Guest target = MakeTarget(bench, source.memory.borrow());
    EXPECT_TRUE(source.Store(kMemoryGpa + kPage, 7).Halted());
    long moved = 1;
    int punched = 1;
    testing::AtOnce([&] { moved = bench.Move(target.vm.borrow(), source.vm.borrow()); },
                    [&] { punched = PunchHole(source.memory.borrow(), kPage, kPage); });
    EXPECT_EQ(moved, 0);
    EXPECT_TRUE(punched == 0 || punched == EPERM) << punched;
    EXPECT_EQ(target.Load(kMemoryGpa + kPage).value, punched == 0 ? 0u : 7u);
    EXPECT_EQ(target.Load(kMemoryGpa).value, kSecret);
  }
}

#define kLinkAndMove \
  { Feature::kLink, Feature::kMove }

const Rule kRules[] = {
    {"concurrent.waits-for-source", "D sev.c sev_lock_vcpus_for_migration; kernel/",
     "MOVE waits until the source's vCPUs are out of KVM_RUN", kLinkAndMove, WaitsForTheSource},
    {"concurrent.waits-for-target", "D sev.c sev_lock_vcpus_for_migration; kernel/",
     "and the target's", kLinkAndMove, WaitsForTheTarget},
    {"concurrent.under-way-ebusy", "D sev.c; RFC v2 08/13",
     "while one MOVE waits, another with one of its VMs is EBUSY", kLinkAndMove,
     MoveUnderWayIsEbusy},
    {"concurrent.opposite", "sev_migrate_tests.c test_sev_migrate_locking; seed",
     "opposite moves do not deadlock, and the guest has one owner", kLinkAndMove, OppositeMoves},
    {"concurrent.one-winner", "sev_migrate_tests.c test_sev_migrate_locking",
     "of two targets that move at once, one gets the guest", kLinkAndMove, OneOfTwoTargets},
    {"concurrent.many", "sev_migrate_tests.c test_sev_migrate_locking",
     "three threads that move three VMs in all directions do not deadlock", kLinkAndMove,
     ManyMovesAmongThree},
    {"concurrent.hole", "kernel/", "a hole punched during MOVE is either whole or refused",
     kLinkAndMove, HolesWhileMoving},
};

}  // namespace

std::span<const Rule> ConcurrencyRules() { return kRules; }

}  // namespace rehome::conformance
