// SPDX-License-Identifier: Apache-2.0
//
// Kills a VMM at chosen machine instructions of an operation and looks at what is left. Random
// timing practically never hits the instant that matters; single-stepping does.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/fd_passing.h"
#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kSecret = 0xdeadbeef;

// Instrumented code takes many more instructions for the same; every place is tried in the plain
// build.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kCoarser = 11;
#else
constexpr uint64_t kCoarser = 1;
#endif

// A process that prepares something, sends its descriptors, stops, performs an operation, and stops
// again; it runs under this process's control (ptrace) and dies with the object.
class Victim {
 public:
  // `prepare` returns what to send; `operate` is what gets interrupted.
  Victim(const std::function<std::vector<BorrowedFd>(TestKernel&)>& prepare,
         const std::function<void(TestKernel&)>& operate) {
    auto pair = CreateSocketPair();
    EXPECT_TRUE(pair.ok());
    pid_ = fork();
    if (pid_ == 0) {
      TestKernel kernel;
      if (!Send(pair->second.borrow(), prepare(kernel))) _exit(1);
      ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      raise(SIGSTOP);
      operate(kernel);
      raise(SIGSTOP);
      _exit(0);
    }
    EXPECT_TRUE(Receive(pair->first.borrow(), &fds_));
    EXPECT_TRUE(WaitForStop());
  }
  ~Victim() { Kill(); }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  const std::vector<UniqueFd>& fds() const { return fds_; }

  // Executes up to `count` instructions of the operation; false if it ended before.
  bool Step(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr);
      if (!WaitForStop() || stop_signal_ != SIGTRAP) return false;
    }
    return true;
  }

  // Runs until the next entry into or return from a system call.
  bool ToSyscallStop() {
    ptrace(PTRACE_SYSCALL, pid_, nullptr, nullptr);
    return WaitForStop() && stop_signal_ == SIGTRAP;
  }
  bool ToSyscallEntry(long number) {
    for (bool entry = true; ToSyscallStop(); entry = !entry) {
      user_regs_struct registers;
      ptrace(PTRACE_GETREGS, pid_, nullptr, &registers);
      if (entry && static_cast<long>(registers.orig_rax) == number) return true;
    }
    return false;
  }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  bool WaitForStop() {
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_ || !WIFSTOPPED(status)) return false;
    stop_signal_ = WSTOPSIG(status);
    return true;
  }

  pid_t pid_ = -1;
  int stop_signal_ = 0;
  std::vector<UniqueFd> fds_;
};

// ---- MOVE

// A guest here, and a victim that moves it to itself.
struct MoveScene {
  MoveScene() {
    EXPECT_EQ(kernel.Run(source.vcpus[0].borrow(), Program::kStore, kGuestGpa, kSecret).result, 0);
  }

  std::unique_ptr<Victim> StartMover() {
    return std::make_unique<Victim>(
        [this](TestKernel& own) {
          target = MakeTarget(own, VmType::kSwProtected, source.memory.borrow());
          return std::vector<BorrowedFd>{target.vm.borrow(), target.memory.borrow()};
        },
        [this](TestKernel& own) { own.Move(target.vm.borrow(), source.vm.borrow()); });
  }

  // After the victim's death: the guest is at the source, or can be rescued from the target.
  bool CheckOneOwner(const Victim& victim) {
    const bool moved = kernel.Call(source.vm.borrow(), KVM_CHECK_EXTENSION, 0ul) == -EIO;
    const Guest rescuer = MakeTarget(kernel, VmType::kSwProtected, victim.fds()[1].borrow());
    EXPECT_EQ(kernel.Move(rescuer.vm.borrow(), victim.fds()[0].borrow()), moved ? 0 : -EINVAL);
    const Guest& owner = moved ? rescuer : source;
    const RunResult run = kernel.Run(owner.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
    EXPECT_EQ(run.result, 0);
    EXPECT_EQ(run.regs.rcx, kSecret);
    // A mover that died does not keep the source from being moved by another.
    if (!moved) {
      const Guest next = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
      EXPECT_EQ(kernel.Move(next.vm.borrow(), source.vm.borrow()), 0);
    }
    return moved;
  }

  TestKernel kernel;
  Guest source = MakeGuest(kernel, VmType::kSwProtected);
  Guest target;  // only in the victim
};

TEST(CrashInMoveTest, AtEverySystemCall) {
  bool moved = false;
  int stops = 0;
  for (bool ended = false; !ended; ++stops) {
    MoveScene scene;
    const std::unique_ptr<Victim> victim = scene.StartMover();
    for (int i = 0; i <= stops && !ended; ++i) ended = !victim->ToSyscallStop();
    victim->Kill();
    SCOPED_TRACE(stops);
    const bool moved_here = scene.CheckOneOwner(*victim);
    EXPECT_GE(moved_here, moved) << "dying later must not undo the move";
    moved = moved_here;
  }
  EXPECT_TRUE(moved);
  EXPECT_GT(stops, 10);
}

TEST(CrashInMoveTest, JustBeforeTheCommit) {
  MoveScene scene;
  const std::unique_ptr<Victim> victim = scene.StartMover();
  ASSERT_TRUE(victim->ToSyscallEntry(SYS_preadv));
  victim->Kill();
  EXPECT_FALSE(scene.CheckOneOwner(*victim));
}

TEST(CrashInMoveTest, AtInstructionsAfterTheCommit) {
  constexpr uint64_t kStride = 47 * kCoarser;
  for (uint64_t steps = 0;; steps += kStride) {
    MoveScene scene;
    const std::unique_ptr<Victim> victim = scene.StartMover();
    ASSERT_TRUE(victim->ToSyscallEntry(SYS_preadv));
    ASSERT_TRUE(victim->ToSyscallStop());
    const bool more = victim->Step(steps) && steps < 2000;
    victim->Kill();
    SCOPED_TRACE(steps);
    ASSERT_TRUE(scene.CheckOneOwner(*victim));
    if (!more) break;
  }
}

TEST(CrashInMoveTest, AtInstructionsOfTheWholeMove) {
  constexpr uint64_t kStride = 1499 * kCoarser;  // prime, so that loops are hit at different places
  bool moved = false;
  for (uint64_t steps = 1;; steps += kStride) {
    MoveScene scene;
    const std::unique_ptr<Victim> victim = scene.StartMover();
    const bool more = victim->Step(steps);
    victim->Kill();
    SCOPED_TRACE(steps);
    const bool moved_here = scene.CheckOneOwner(*victim);
    ASSERT_GE(moved_here, moved);
    moved = moved_here;
    if (!more) break;
  }
  EXPECT_TRUE(moved);
}

// ---- KVM_RUN

TEST(CrashInRunTest, ProtectedRegistersAreThoseOfACompleteStep) {
  constexpr uint64_t kStride = 83 * kCoarser;
  for (uint64_t steps = 1; steps < 4000; steps += kStride) {
    Guest guest;  // only in the victim
    Victim victim(
        [&](TestKernel& own) {
          guest = MakeGuest(own, VmType::kTdx);
          own.ResumeToOut(guest.vcpus[0].borrow());
          return std::vector<BorrowedFd>{guest.vm.borrow(), guest.memory.borrow(),
                                         guest.vcpus[0].borrow()};
        },
        [&](TestKernel& own) {
          own.Call(guest.vcpus[0].borrow(), KVM_RUN, 0ul);
          own.Call(guest.vcpus[0].borrow(), KVM_RUN, 0ul);
        });
    victim.Step(steps);
    victim.Kill();
    TestKernel kernel;
    kvm_run* run = kernel.Map(victim.fds()[2].borrow());
    uint32_t last = 0;
    std::memcpy(&last, reinterpret_cast<std::byte*>(run) + run->io.data_offset, sizeof(last));
    const Guest target = MakeTarget(kernel, VmType::kTdx, victim.fds()[1].borrow());
    ASSERT_EQ(kernel.Move(target.vm.borrow(), victim.fds()[0].borrow()), 0);
    const uint32_t next = kernel.ResumeToOut(target.vcpus[0].borrow());
    // One more if the step was complete and its output not yet written.
    ASSERT_TRUE(next == last + 1 || next == last + 2) << last << ", " << next << " at " << steps;
  }
}

// ---- memslots

TEST(CrashInMemslotTest, SlotIsThereOrNot) {
  constexpr uint64_t kStride = 4999 * kCoarser;
  bool bound_before = false;
  for (uint64_t steps = 1;; steps += kStride) {
    Guest guest;  // only in the victim
    Victim victim(
        [&](TestKernel& own) {
          guest.vm = own.CreateVm(VmType::kSwProtected);
          guest.memory = own.CreateGuestMemfd(guest.vm.borrow(), kGuestSize);
          return std::vector<BorrowedFd>{guest.vm.borrow(), guest.memory.borrow()};
        },
        [&](TestKernel& own) {
          own.Bind(guest.vm.borrow(), 0, kGuestGpa, kGuestSize, guest.memory.borrow());
        });
    const bool more = victim.Step(steps);
    victim.Kill();
    TestKernel kernel;
    const Guest with = MakeTarget(kernel, VmType::kSwProtected, victim.fds()[1].borrow(), 0);
    const bool bound = kernel.Move(with.vm.borrow(), victim.fds()[0].borrow()) == 0;
    if (!bound) {
      const UniqueFd without = kernel.CreateVm(VmType::kSwProtected);
      EXPECT_EQ(kernel.Move(without.borrow(), victim.fds()[0].borrow()), 0) << "at " << steps;
    }
    ASSERT_GE(bound, bound_before);
    bound_before = bound;
    if (!more) break;
  }
  EXPECT_TRUE(bound_before);
}

}  // namespace
}  // namespace rehome::sim
