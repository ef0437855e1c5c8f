// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_run.h"

#include <gtest/gtest.h>
#include <x86intrin.h>

#include <cerrno>
#include <thread>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

class VcpuRunTest : public ::testing::Test {
 protected:
  RunResult Run(Program program, uint64_t rbx = 0, uint64_t rcx = 0) {
    return kernel_.Run(vcpu_.borrow(), program, rbx, rcx);
  }
  kvm_regs Regs() {
    kvm_regs regs = {};
    EXPECT_EQ(kernel_.Call(vcpu_.borrow(), KVM_GET_REGS, &regs), 0);
    return regs;
  }
  void SetRegs(const kvm_regs& regs) {
    kvm_regs copy = regs;
    EXPECT_EQ(kernel_.Call(vcpu_.borrow(), KVM_SET_REGS, &copy), 0);
  }
  static uint64_t Load(HostPages& pages) {
    return __atomic_load_n(&pages.word(0), __ATOMIC_RELAXED);
  }
  void Kick(bool on) { __atomic_store_n(&run_->immediate_exit, on ? 1 : 0, __ATOMIC_RELEASE); }
  uint8_t* PortData() { return reinterpret_cast<uint8_t*>(run_) + run_->io.data_offset; }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kDefault);
  UniqueFd vcpu_ = kernel_.CreateVcpu(vm_.borrow());
  kvm_run* run_ = kernel_.Map(vcpu_.borrow());
};

TEST_F(VcpuRunTest, HaltLeavesWithoutIrqchip) {
  const RunResult run = Run(Program::kHalt);
  EXPECT_EQ(run.result, 0);
  EXPECT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
}

TEST_F(VcpuRunTest, ShutdownLeaves) {
  EXPECT_EQ(Run(Program::kShutdown).exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
}

TEST_F(VcpuRunTest, ImmediateExitEndsASpinningGuestFromAnotherThread) {
  int result = 0;
  std::thread runner([&] { result = Run(Program::kSpin).result; });
  Kick(true);
  runner.join();
  EXPECT_EQ(result, -EINTR);
  EXPECT_EQ(run_->exit_reason, static_cast<uint32_t>(KVM_EXIT_INTR));
}

TEST_F(VcpuRunTest, ImmediateExitBeforeTheCallRunsNothing) {
  Kick(true);
  EXPECT_EQ(Run(Program::kSpin).result, -EINTR);
  EXPECT_EQ(Regs().rax, 0u);
}

TEST_F(VcpuRunTest, RegistersAndMemoryAreOfTheSameStep) {
  HostPages pages(0x1000);
  ASSERT_EQ(
      kernel_.TrySetRegion(vm_.borrow(),
                           {.slot = 0, .memory_size = 0x1000, .userspace_addr = pages.address()}),
      0);
  std::thread runner([&] { Run(Program::kCount, 0); });
  ASSERT_TRUE(Eventually([&] { return Load(pages) > 1000; }));
  Kick(true);
  runner.join();
  EXPECT_EQ(Regs().rax, Load(pages));
  EXPECT_EQ(kernel_.Resume(vcpu_.borrow()).regs.rax, Load(pages)) << "still kicked: no step";
}

// ---- port I/O

TEST_F(VcpuRunTest, OutputIsInTheRunArea) {
  kvm_regs regs = {};
  regs.rip = static_cast<uint64_t>(Program::kOut);
  regs.rdx = 0x3f8;
  regs.rax = 0x12345678;
  SetRegs(regs);
  const RunResult run = kernel_.Resume(vcpu_.borrow());
  EXPECT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(run_->io.direction, KVM_EXIT_IO_OUT);
  EXPECT_EQ(run_->io.port, 0x3f8);
  EXPECT_EQ(run_->io.size, 4);
  EXPECT_EQ(run_->io.count, 1u);
  EXPECT_EQ(run.port_data, 0x12345678u);
}

TEST_F(VcpuRunTest, PortIoCompletesInTheNextRunEvenIfThatExitsAtOnce) {
  kvm_regs regs = {};
  regs.rip = static_cast<uint64_t>(Program::kIn);
  regs.rax = 0xffff;
  SetRegs(regs);
  EXPECT_EQ(kernel_.Resume(vcpu_.borrow()).exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(run_->io.direction, KVM_EXIT_IO_IN);
  EXPECT_EQ(Regs().rip, static_cast<uint64_t>(Program::kIn)) << "not yet complete";
  PortData()[0] = 0x42;
  Kick(true);
  EXPECT_EQ(kernel_.Resume(vcpu_.borrow()).result, -EINTR);
  EXPECT_EQ(Regs().rax, 0xff42u) << "one byte";
  EXPECT_EQ(Regs().rip, static_cast<uint64_t>(Program::kHalt));
}

TEST_F(VcpuRunTest, SettingRegistersDropsPendingPortIo) {
  EXPECT_EQ(Run(Program::kIn).exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  PortData()[0] = 0x42;
  EXPECT_EQ(Run(Program::kHalt).exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
  EXPECT_EQ(Regs().rax, 0u);
}

TEST_F(VcpuRunTest, GuestThatIsSavedBeforeCompletionRepeatsTheInstruction) {
  EXPECT_EQ(Run(Program::kOut).exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  const kvm_regs saved = Regs();
  const UniqueFd other = kernel_.CreateVcpu(vm_.borrow(), 1);
  kvm_regs copy = saved;
  ASSERT_EQ(kernel_.Call(other.borrow(), KVM_SET_REGS, &copy), 0);
  EXPECT_EQ(kernel_.Resume(other.borrow()).exit_reason, static_cast<uint32_t>(KVM_EXIT_IO))
      << "the hazard that CompletePendingIo() is for";
}

// ---- memory

TEST_F(VcpuRunTest, OrdinarySlotIsUserspaceMemory) {
  HostPages pages(0x2000);
  ASSERT_EQ(kernel_.TrySetRegion(vm_.borrow(), {.slot = 0,
                                                .guest_phys_addr = 0x1000,
                                                .memory_size = 0x2000,
                                                .userspace_addr = pages.address()}),
            0);
  EXPECT_EQ(Run(Program::kStore, 0x1008, 42).result, 0);
  EXPECT_EQ(pages.word(8), 42u);
}

TEST_F(VcpuRunTest, GuestMemfdWithoutMmapOnADefaultVmLeavesTheGuestInUserspaceMemory) {
  HostPages pages(0x1000);
  const UniqueFd memory = kernel_.CreateGuestMemfd(vm_.borrow(), 0x1000, 0);
  ASSERT_EQ(kernel_.TrySetRegion(vm_.borrow(),
                                 {.slot = 0,
                                  .flags = KVM_MEM_GUEST_MEMFD,
                                  .memory_size = 0x1000,
                                  .userspace_addr = pages.address(),
                                  .guest_memfd = static_cast<uint32_t>(memory.borrow().raw())}),
            0);
  EXPECT_EQ(Run(Program::kStore, 0, 42).result, 0);
  EXPECT_EQ(pages.word(0), 42u);
}

TEST_F(VcpuRunTest, AccessWithoutSlotIsAnInternalError) {
  EXPECT_EQ(Run(Program::kLoad, 0x5000).exit_reason,
            static_cast<uint32_t>(KVM_EXIT_INTERNAL_ERROR));
  EXPECT_EQ(run_->internal.suberror, static_cast<uint32_t>(KVM_INTERNAL_ERROR_EMULATION));
}

TEST_F(VcpuRunTest, UnmappedUserspaceMemoryIsEfaultNotACrash) {
  HostPages pages(0x1000);
  ASSERT_EQ(
      kernel_.TrySetRegion(vm_.borrow(),
                           {.slot = 0, .memory_size = 0x1000, .userspace_addr = pages.address()}),
      0);
  EXPECT_EQ(Run(Program::kLoad, 0).result, 0);
  pages.Unmap();
  EXPECT_EQ(Run(Program::kLoad, 0).result, -EFAULT);
  EXPECT_EQ(run_->exit_reason, static_cast<uint32_t>(KVM_EXIT_MEMORY_FAULT));
}

TEST_F(VcpuRunTest, FaultingStepCanBeRepeated) {
  EXPECT_EQ(Run(Program::kLoad, 0).exit_reason, static_cast<uint32_t>(KVM_EXIT_INTERNAL_ERROR));
  HostPages pages(0x1000);
  pages.word(0) = 7;
  ASSERT_EQ(
      kernel_.TrySetRegion(vm_.borrow(),
                           {.slot = 0, .memory_size = 0x1000, .userspace_addr = pages.address()}),
      0);
  EXPECT_EQ(kernel_.Resume(vcpu_.borrow()).regs.rcx, 7u);
}

// ---- TSC

TEST_F(VcpuRunTest, GuestTscIsTheHostsPlusTheOffset) {
  int64_t offset = -1'000'000'000'000;
  kvm_device_attr attribute = {.flags = 0,
                               .group = KVM_VCPU_TSC_CTRL,
                               .attr = KVM_VCPU_TSC_OFFSET,
                               .addr = reinterpret_cast<uint64_t>(&offset)};
  ASSERT_EQ(kernel_.Call(vcpu_.borrow(), KVM_SET_DEVICE_ATTR, &attribute), 0);
  const uint64_t before = __rdtsc() + static_cast<uint64_t>(offset);
  const uint64_t guest = Run(Program::kReadTsc).regs.rax;
  EXPECT_GE(static_cast<int64_t>(guest - before), 0);
  EXPECT_LE(static_cast<int64_t>(guest - (__rdtsc() + static_cast<uint64_t>(offset))), 0);
}

// ---- in-kernel irqchip

class VcpuWithIrqchipTest : public VcpuRunTest {
 protected:
  VcpuWithIrqchipTest() {
    vm_ = kernel_.CreateVm(VmType::kDefault);
    EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CREATE_IRQCHIP, 0ul), 0);
    vcpu_ = kernel_.CreateVcpu(vm_.borrow());
    run_ = kernel_.Map(vcpu_.borrow());
  }
  kvm_mp_state MpState(BorrowedFd vcpu) {
    kvm_mp_state state = {};
    EXPECT_EQ(kernel_.Call(vcpu, KVM_GET_MP_STATE, &state), 0);
    return state;
  }
};

TEST_F(VcpuWithIrqchipTest, HaltWaitsInsideUntilKicked) {
  HostPages pages(0x1000);
  ASSERT_EQ(
      kernel_.TrySetRegion(vm_.borrow(),
                           {.slot = 0, .memory_size = 0x1000, .userspace_addr = pages.address()}),
      0);
  int result = 0;
  std::thread runner([&] { result = Run(Program::kStore, 0, 42).result; });
  ASSERT_TRUE(Eventually([&] { return Load(pages) == 42; }));  // the step that ends in HLT
  Kick(true);
  runner.join();
  EXPECT_EQ(result, -EINTR);
  EXPECT_EQ(MpState(vcpu_.borrow()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_HALTED));
}

TEST_F(VcpuWithIrqchipTest, HaltedVcpuStaysHaltedUntilItIsMadeRunnable) {
  kvm_mp_state state = {.mp_state = KVM_MP_STATE_HALTED};
  ASSERT_EQ(kernel_.Call(vcpu_.borrow(), KVM_SET_MP_STATE, &state), 0);
  std::thread runner([&] { EXPECT_EQ(Run(Program::kShutdown).result, -EINTR); });
  Kick(true);
  runner.join();
  EXPECT_EQ(MpState(vcpu_.borrow()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_HALTED));
  Kick(false);
  state.mp_state = KVM_MP_STATE_RUNNABLE;
  ASSERT_EQ(kernel_.Call(vcpu_.borrow(), KVM_SET_MP_STATE, &state), 0);
  EXPECT_EQ(kernel_.Resume(vcpu_.borrow()).exit_reason, static_cast<uint32_t>(KVM_EXIT_SHUTDOWN));
}

TEST_F(VcpuWithIrqchipTest, ApplicationProcessorsWaitForTheirStart) {
  const UniqueFd second = kernel_.CreateVcpu(vm_.borrow(), 1);
  EXPECT_EQ(MpState(vcpu_.borrow()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_RUNNABLE));
  EXPECT_EQ(MpState(second.borrow()).mp_state, static_cast<uint32_t>(KVM_MP_STATE_UNINITIALIZED));
}

}  // namespace
}  // namespace rehome::sim
