// SPDX-License-Identifier: Apache-2.0
//
// The guest notices what a bad migration would do to it: for each kind of damage, a running guest
// that is stopped, damaged, and let go on must say so. Without this, "0 errors" would mean nothing.
// On the kernel that the build names (REHOME_TEST_ON_KVM).
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/sim/simulated_kernel.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm_state.h"
#include "kvmglue/why_no_kvm.h"
#include "vmm/reference/guest/step.h"
#include "vmm/reference/guest_check.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/sim_cpu.h"
#include "vmm/reference/vcpu_crew.h"

namespace rehome {
namespace {

constexpr bool kOnKvm = REHOME_TEST_ON_KVM;
constexpr int kPatienceMs = 30'000;
// XMM7's place in the XSAVE area (Intel SDM 1, 13.4.2).
constexpr size_t kXmm7 = 160 + 7 * 16;
constexpr uint64_t kSecondNs = 1'000'000'000;

// Waits for what the guest or a thread will do; nothing tells us when.
bool Await(const std::function<bool()>& condition) {
  for (int i = 0; i < kPatienceMs; ++i) {
    if (condition()) return true;
    poll(nullptr, 0, 1);
  }
  return condition();
}

// Something to do to a stopped vCPU.
class Operation : public PausedWork {
 public:
  Operation(Machine& machine, std::function<void(Vcpu&)> act)
      : machine_(machine), act_(std::move(act)) {}
  void OnAllStopped(bool) override {}
  void Run(uint32_t index) override {
    if (index == 0) act_(*machine_.vcpus()[0]);
  }

 private:
  Machine& machine_;
  const std::function<void(Vcpu&)> act_;
};

class GuestDetectionTest : public testing::Test, private CrewListener {
 protected:
  GuestDetectionTest()
      : kernel_(kOnKvm ? OpenRealKvm()
                       : std::make_unique<SimulatedKernel>(SimulatedKernelOptions(), cpu_)),
        host_{.kernel = *kernel_, .kind = kOnKvm ? KernelKind::kKvm : KernelKind::kSim} {}
  void SetUp() override {
    const std::string why = kOnKvm ? WhyNoKvm() : "";
    if (!why.empty()) GTEST_SKIP() << why;
    auto machine =
        Machine::Start(host_, {.vm_id = "guest", .step_ns = 100, .working_set_pages = 16});
    EXPECT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    crew_ = std::make_unique<VcpuCrew>(machine_->vcpus(), machine_->devices(),
                                       static_cast<CrewListener&>(*this));
    EXPECT_TRUE(crew_->Start(nullptr).ok());
    EXPECT_TRUE(AwaitSteps(10'000));
  }
  void TearDown() override {
    if (crew_ == nullptr) return;
    crew_->Stop();
    crew_.reset();
    machine_.reset();
  }

  std::byte* ram(uint64_t offset) { return machine_->ram().mapping(0).data() + offset; }
  rehome_guest_mailbox& mailbox() {
    return *reinterpret_cast<rehome_guest_mailbox*>(ram(REHOME_GUEST_MAILBOXES));
  }
  uint64_t Read(const uint64_t& word) {
    return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(word)).load();
  }
  bool AwaitSteps(uint64_t steps) {
    return Await([&] { return Read(mailbox().steps) >= steps; });
  }
  bool AwaitError(rehome_guest_error kind) {
    return Await([&] { return Read(mailbox().errors[kind]) != 0; });
  }
  // For damage to a register that the guest reads at each step. A stop may fall into the middle of
  // a step, behind the last use of the old value: there the register is dead, the step overwrites
  // it, and nothing was lost. So the damage is done again until one falls on a live register, which
  // most do.
  bool DamageIsNoticed(rehome_guest_error kind, const std::function<void(VcpuState&)>& damage) {
    constexpr int kAttempts = 100;
    for (int i = 0; i < kAttempts; ++i) {
      const uint64_t steps = Read(mailbox().steps);
      Change(damage);
      const bool settled = Await([&] {
        return Read(mailbox().errors[kind]) != 0 ||
               Read(mailbox().steps) > steps + 2 * REHOME_GUEST_XMM_INTERVAL;
      });
      if (!settled || Read(mailbox().errors[kind]) != 0) return settled;
    }
    return false;
  }

  void WhilePaused(std::function<void(Vcpu&)> act) {
    Operation operation(*machine_, std::move(act));
    EXPECT_TRUE(crew_->Pause(operation).ok());
    crew_->Resume();
  }
  // Saves, changes and restores the vCPU.
  void Change(const std::function<void(VcpuState&)>& change) {
    WhilePaused([&](Vcpu& vcpu) {
      auto state = std::make_unique<VcpuState>();
      EXPECT_TRUE(vcpu.SaveState(*state).ok());
      change(*state);
      const absl::Status status = vcpu.RestoreState(*state);
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  GuestReport Check() {
    crew_->Stop();
    auto memory = machine_->OpenForCheck();
    EXPECT_TRUE(memory.ok()) << memory.status();
    const auto report = GuestChecker().Check(**memory);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : GuestReport();
  }

  std::unique_ptr<Machine> machine_;
  std::atomic<bool> ended_{false};

 private:
  void OnGuestEnd(GuestEnd, const std::string&) override { ended_ = true; }
  void OnFirstRun() override {}

  SimGuestCpu cpu_;
  std::unique_ptr<KvmSyscalls> kernel_;
  Host host_;
  std::unique_ptr<VcpuCrew> crew_;
};

TEST_F(GuestDetectionTest, AGuestThatIsSavedAndRestoredUnchangedIsIntact) {
  for (int i = 0; i < 20; ++i) {
    const uint64_t steps = Read(mailbox().steps);
    Change([](VcpuState&) {});
    ASSERT_TRUE(AwaitSteps(steps + 1000));
  }
  const GuestReport report = Check();
  EXPECT_TRUE(report.intact) << report.difference;
  EXPECT_EQ(report.errors, 0u);
  EXPECT_EQ(kOnKvm, report.ticks > 0);
}

TEST_F(GuestDetectionTest, APauseThatFollowsAnotherAtOnceIsAPauseOfItsOwn) {
  int pauses = 0;
  for (int i = 0; i < 1000; ++i) WhilePaused([&](Vcpu&) { ++pauses; });
  EXPECT_EQ(pauses, 1000);
}

TEST_F(GuestDetectionTest, ALostRegister) {
  EXPECT_TRUE(
      DamageIsNoticed(REHOME_GUEST_ERROR_REGISTER, [](VcpuState& state) { state.regs.r12 ^= 1; }));
  EXPECT_FALSE(Check().intact);
}

TEST_F(GuestDetectionTest, RegistersOfAnEarlierMoment) {
  auto earlier = std::make_unique<VcpuState>();
  WhilePaused([&](Vcpu& vcpu) { EXPECT_TRUE(vcpu.SaveState(*earlier).ok()); });
  ASSERT_TRUE(AwaitSteps(Read(mailbox().steps) + 1000));
  Change([&](VcpuState& state) { state.regs = earlier->regs; });
  // Registers of the middle of a step finish that step first, and then it is the pages that know
  // more than the registers.
  EXPECT_TRUE(Await([&] {
    return Read(mailbox().errors[REHOME_GUEST_ERROR_REGISTER]) != 0 ||
           Read(mailbox().errors[REHOME_GUEST_ERROR_FUTURE]) != 0;
  }));
}

TEST_F(GuestDetectionTest, ASecondOwnerThatRanTheGuestMeanwhile) {
  auto earlier = std::make_unique<VcpuState>();
  rehome_guest_mailbox mailbox_then;
  WhilePaused([&](Vcpu& vcpu) {
    EXPECT_TRUE(vcpu.SaveState(*earlier).ok());
    mailbox_then = mailbox();
  });
  ASSERT_TRUE(AwaitSteps(Read(mailbox().steps) + 1000));
  // The other owner's mailbox is as it left it; the work pages have moved on.
  Change([&](VcpuState& state) {
    state.regs = earlier->regs;
    mailbox().chain = mailbox_then.chain;
    mailbox().steps = mailbox_then.steps;
  });
  EXPECT_TRUE(AwaitError(REHOME_GUEST_ERROR_FUTURE));
  EXPECT_FALSE(Check().intact);
}

TEST_F(GuestDetectionTest, AWorkPageThatChanged) {
  const rehome_guest_area area = rehome_guest_area_of(
      machine_->ram().size_bytes(), 1, 0,
      reinterpret_cast<rehome_guest_boot_info*>(ram(REHOME_GUEST_BOOT_INFO))->working_set_pages);
  WhilePaused([&](Vcpu&) { *ram(rehome_guest_word_offset(&area, 7)) ^= std::byte{1}; });
  EXPECT_TRUE(AwaitError(REHOME_GUEST_ERROR_PAGE));
  EXPECT_FALSE(Check().intact);
}

// ---- What the simulated kernel's guest does not have.
class GuestDetectionKvmTest : public GuestDetectionTest {};

#if REHOME_TEST_ON_KVM

TEST_F(GuestDetectionKvmTest, ALostXmmRegister) {
  EXPECT_TRUE(
      DamageIsNoticed(REHOME_GUEST_ERROR_XMM, [](VcpuState& state) { state.xsave[kXmm7] ^= 1; }));
}

TEST_F(GuestDetectionKvmTest, AKvmclockThatWentBack) {
  auto state = std::make_unique<VmState>();
  WhilePaused([&](Vcpu&) {
    ASSERT_TRUE(machine_->vm().SaveState(*state).ok());
    state->clock.flags = 0;
    state->clock.clock -= std::min<uint64_t>(state->clock.clock, kSecondNs);
    state->clock_read_ns = ~0ull;  // as if no time had passed
    const absl::Status status = machine_->vm().RestoreState(*state);
    ASSERT_TRUE(status.ok()) << status;
  });
  EXPECT_TRUE(AwaitError(REHOME_GUEST_ERROR_CLOCK));
}

TEST_F(GuestDetectionKvmTest, ATimerThatWasLost) {
  constexpr size_t kTimerVector = 0x320, kMasked = 1 << 16;
  Change([](VcpuState& state) {
    uint32_t vector;
    std::memcpy(&vector, state.lapic.regs + kTimerVector, sizeof(vector));
    vector |= kMasked;
    std::memcpy(state.lapic.regs + kTimerVector, &vector, sizeof(vector));
  });
  EXPECT_TRUE(AwaitError(REHOME_GUEST_ERROR_TIMER));
}

TEST_F(GuestDetectionKvmTest, AnExceptionEndsTheGuestAndIsReported) {
  Change([](VcpuState& state) { state.regs.rip = 1ull << 60; });
  ASSERT_TRUE(Await([&] { return ended_.load(); }));
  const GuestReport report = Check();
  EXPECT_FALSE(report.intact);
  EXPECT_NE(report.difference.find("exception 13"), std::string::npos) << report.difference;
}

#else

// Not on KVM: under PVM RDTSC runs natively in user mode, whatever the offset says.
TEST_F(GuestDetectionTest, ATscThatWentBack) {
  Change([](VcpuState& state) {
    ASSERT_TRUE(state.Has(kBlockTscOffset));
    state.tsc_offset -= 1ull << 40;
  });
  EXPECT_TRUE(AwaitError(REHOME_GUEST_ERROR_TSC));
}

#endif  // REHOME_TEST_ON_KVM

}  // namespace
}  // namespace rehome
