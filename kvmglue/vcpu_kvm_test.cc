// SPDX-License-Identifier: Apache-2.0
//
// A vCPU's life in one VM, then in a second one, on real KVM.
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm_state.h"
#include "kvmglue/why_no_kvm.h"

namespace rehome {
namespace {

using testing::Eventually;
using testing::GuestRam;
using testing::Program;
using testing::VcpuThread;

struct Mode {
  bool sync_regs;
  bool irqchip;
};

// A VM over the same memory file: what each side of a MAP migration has.
struct Side {
  std::unique_ptr<Vm> vm;
  std::unique_ptr<GuestRam> ram;
  std::unique_ptr<Vcpu> vcpu;
};

class VcpuOnKvm : public ::testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
  }

  std::unique_ptr<Vm> NewVm() {
    absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(*kernel_, VmType::kDefault, LinkAbi{});
    EXPECT_TRUE(vm.ok()) << vm.status();
    if (!GetParam().sync_regs) (*vm)->DisableSyncRegs();
    if (GetParam().irqchip) {
      EXPECT_TRUE((*vm)->CreateIrqchip().ok());
    }
    return *std::move(vm);
  }

  std::unique_ptr<Vcpu> NewVcpu(Vm& vm, uint32_t index) {
    absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = vm.CreateVcpu(index);
    EXPECT_TRUE(vcpu.ok()) << vcpu.status();
    const absl::StatusOr<std::vector<std::byte>> cpuid = DefaultCpuid(*kernel_, index, 2);
    EXPECT_TRUE(cpuid.ok()) << cpuid.status();
    const absl::Status status = (*vcpu)->SetCpuid(*cpuid);
    EXPECT_TRUE(status.ok()) << status;
    return *std::move(vcpu);
  }

  // The source has its memory in a guest_memfd of its own.
  Side NewSource(Program program) {
    Side side;
    side.vm = NewVm();
    absl::StatusOr<UniqueFd> memory =
        side.vm->CreateGuestMemfd(testing::kGuestBytes, kGuestMemfdMmap | kGuestMemfdInitShared);
    EXPECT_TRUE(memory.ok()) << memory.status();
    side.ram = std::make_unique<GuestRam>(*std::move(memory));
    side.ram->Load(program);
    Memslot slot = side.ram->Slot();
    slot.flags = kMemslotGuestMemfd;
    EXPECT_TRUE(side.vm->SetMemslot(slot, side.ram->file()).ok());
    side.vcpu = NewVcpu(*side.vm, 0);
    VcpuState& state = *scratch_;
    EXPECT_TRUE(side.vcpu->SaveState(state).ok());
    testing::SetBootState(program, state);
    const absl::Status status = side.vcpu->RestoreState(state);
    EXPECT_TRUE(status.ok()) << status;
    return side;
  }

  // The target maps the source's file.
  Side NewTarget(const Side& source) {
    Side side;
    side.vm = NewVm();
    side.ram = std::make_unique<GuestRam>(Duplicate(source.ram->file()).value());
    EXPECT_TRUE(side.vm->SetMemslot(side.ram->Slot(), BorrowedFd()).ok());
    side.vcpu = NewVcpu(*side.vm, 0);
    return side;
  }

  std::unique_ptr<VcpuState> Save(Vcpu& vcpu) {
    auto state = std::make_unique<VcpuState>();
    const absl::Status status = vcpu.SaveState(*state);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(state->Validate().ok()) << state->Validate();
    return state;
  }

  void RunFor(Side& side, uint64_t loops) {
    VcpuThread thread(*side.vcpu);
    const uint64_t goal = side.ram->Count() + loops;
    EXPECT_TRUE(Eventually([&] { return side.ram->Count() >= goal; }));
    const absl::StatusOr<VcpuExit> exit = thread.Stop();
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(*exit, VcpuExit::kInterrupted) << side.vcpu->DescribeExit();
  }

  std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<VcpuState> scratch_ = std::make_unique<VcpuState>();
};

std::string ModeName(const ::testing::TestParamInfo<Mode>& info) {
  return std::string(info.param.sync_regs ? "SyncRegs" : "Ioctls") +
         (info.param.irqchip ? "Irqchip" : "NoIrqchip");
}

INSTANTIATE_TEST_SUITE_P(Modes, VcpuOnKvm,
                         ::testing::Values(Mode{true, true}, Mode{true, false}, Mode{false, true},
                                           Mode{false, false}),
                         ModeName);

// Only an in-kernel irqchip knows INIT, and halts in the kernel.
class VcpuWithIrqchipOnKvm : public VcpuOnKvm {};

INSTANTIATE_TEST_SUITE_P(Modes, VcpuWithIrqchipOnKvm,
                         ::testing::Values(Mode{true, true}, Mode{false, true}), ModeName);

TEST_P(VcpuOnKvm, GoesOnCountingInAnotherVm) {
  Side source = NewSource(Program::kCount);
  RunFor(source, 1000);
  const std::unique_ptr<VcpuState> state = Save(*source.vcpu);
  const testing::Mailbox before = source.ram->Read();
  EXPECT_EQ(before.xmm, testing::kXmmMark);

  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(target.ram->Count(), before.count);  // nobody ran, nothing was copied
  RunFor(target, 1000);
  const testing::Mailbox after = target.ram->Read();
  EXPECT_GE(after.count, before.count + 1000);
  EXPECT_EQ(after.xmm, testing::kXmmMark);
  EXPECT_GT(after.tsc, before.tsc);
}

TEST_P(VcpuOnKvm, GoesOnInTheSourceAfterASave) {
  Side source = NewSource(Program::kCount);
  RunFor(source, 1000);
  const uint64_t count = source.ram->Count();
  (void)Save(*source.vcpu);
  EXPECT_EQ(source.ram->Count(), count);
  RunFor(source, 1000);
}

TEST_P(VcpuOnKvm, ManyHopsLoseNothing) {
  Side side = NewSource(Program::kCount);
  for (int hop = 0; hop < 10; ++hop) {
    RunFor(side, 100);
    const std::unique_ptr<VcpuState> state = Save(*side.vcpu);
    const uint64_t count = side.ram->Count();
    // The loop stores the counter right after it changes: they differ by at most the step under
    // way.
    EXPECT_LE(state->regs.rbx - count, 1u);
    Side next = NewTarget(side);
    ASSERT_TRUE(next.vcpu->RestoreState(*state).ok());
    side = std::move(next);
  }
}

// Compared block by block, so that a failure names what was lost.
TEST_P(VcpuOnKvm, WhatWasRestoredIsSavedAgain) {
  Side source = NewSource(Program::kCount);
  RunFor(source, 100);
  const std::unique_ptr<VcpuState> a = Save(*source.vcpu);
  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*a).ok());
  const std::unique_ptr<VcpuState> b = Save(*target.vcpu);

  EXPECT_EQ(a->blocks, b->blocks);
  EXPECT_EQ(a->used_bytes, b->used_bytes);
  EXPECT_EQ(a->mp_state.mp_state, b->mp_state.mp_state);
  EXPECT_EQ(std::memcmp(&a->regs, &b->regs, sizeof(a->regs)), 0);
  EXPECT_EQ(std::memcmp(&a->sregs, &b->sregs, sizeof(a->sregs)), 0);
  EXPECT_EQ(std::memcmp(&a->xcrs, &b->xcrs, sizeof(a->xcrs)), 0);
  EXPECT_EQ(std::memcmp(&a->debugregs, &b->debugregs, sizeof(a->debugregs)), 0);
  EXPECT_EQ(std::memcmp(&a->events, &b->events, sizeof(a->events)), 0);
  EXPECT_EQ(std::memcmp(a->xsave, b->xsave, a->xsave_bytes), 0);
  EXPECT_EQ(a->tsc_offset, b->tsc_offset);
  if (GetParam().irqchip) {
    EXPECT_EQ(std::memcmp(&a->lapic, &b->lapic, sizeof(a->lapic)), 0);
  }
  ASSERT_EQ(a->msrs.count, b->msrs.count);
  EXPECT_GT(a->msrs.count, 10u);
  for (uint32_t i = 0; i < a->msrs.count; ++i) {
    EXPECT_EQ(a->msrs.entries[i].index, b->msrs.entries[i].index);
    EXPECT_EQ(a->msrs.entries[i].data, b->msrs.entries[i].data)
        << "MSR " << std::hex << a->msrs.entries[i].index;
  }
}

kvm_msr_entry* FindMsr(VcpuState& state, uint32_t index) {
  for (uint32_t i = 0; i < state.msrs.count; ++i) {
    if (state.msrs.entries[i].index == index) return &state.msrs.entries[i];
  }
  return nullptr;
}

// IA32_TSC would be old by the time it is written, so the offset carries it. IA32_TSC_ADJUST is
// carried beside it: a guest that finds another value than it left writes its own, which shifts its
// TSC.
TEST_P(VcpuOnKvm, TscOffsetAndTscAdjustAreCarriedAndTheTscIsNot) {
  constexpr uint32_t kMsrTsc = 0x10;
  constexpr uint32_t kMsrTscAdjust = 0x3b;
  constexpr uint64_t kOffset = 1ull << 40;
  constexpr uint64_t kAdjust = 12345;
  Side source = NewSource(Program::kCount);
  std::unique_ptr<VcpuState> state = Save(*source.vcpu);
  ASSERT_TRUE(state->Has(kBlockTscOffset));
  EXPECT_EQ(FindMsr(*state, kMsrTsc), nullptr);
  ASSERT_NE(FindMsr(*state, kMsrTscAdjust), nullptr);
  state->tsc_offset = kOffset;
  ASSERT_TRUE(source.vcpu->RestoreState(*state).ok());
  state = Save(*source.vcpu);
  // A KVM that runs user mode natively cannot offset its TSC and says 0 to whatever was set.
  const uint64_t offset = state->tsc_offset;
  EXPECT_TRUE(offset == kOffset || offset == 0) << offset;
  FindMsr(*state, kMsrTscAdjust)->data = kAdjust;
  ASSERT_TRUE(source.vcpu->RestoreState(*state).ok());
  RunFor(source, 100);
  const uint64_t tsc = source.ram->Read().tsc;

  state = Save(*source.vcpu);
  EXPECT_EQ(state->tsc_offset, offset);  // IA32_TSC_ADJUST, set from outside, does not change it
  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*state).ok());
  const std::unique_ptr<VcpuState> restored = Save(*target.vcpu);
  EXPECT_EQ(restored->tsc_offset, offset);
  EXPECT_EQ(FindMsr(*restored, kMsrTscAdjust)->data, kAdjust);
  RunFor(target, 100);
  EXPECT_GT(target.ram->Read().tsc, tsc);
}

TEST_P(VcpuOnKvm, PendingPortInputIsCompletedBeforeTheSave) {
  Side source = NewSource(Program::kPortIo);
  source.vcpu->ClearImmediateExit();
  const absl::StatusOr<VcpuExit> exit = source.vcpu->Run();
  ASSERT_TRUE(exit.ok()) << exit.status();
  ASSERT_EQ(*exit, VcpuExit::kIo) << source.vcpu->DescribeExit();
  const PortIo io = source.vcpu->io();
  EXPECT_EQ(io.port, testing::kGuestPort);
  EXPECT_FALSE(io.is_out);
  ASSERT_EQ(io.data.size(), 1u);
  io.data[0] = testing::kPortAnswer;

  const std::unique_ptr<VcpuState> state = Save(*source.vcpu);
  EXPECT_EQ(state->regs.rax & 0xff, testing::kPortAnswer);
  EXPECT_EQ(source.ram->Read().port_answer, 0u);

  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*state).ok());
  target.vcpu->ClearImmediateExit();
  ASSERT_EQ(target.vcpu->Run().value(), VcpuExit::kIo);  // the next IN
  EXPECT_EQ(target.ram->Read().port_answer, testing::kPortAnswer);
  EXPECT_EQ(target.ram->Count(), 1u);
}

TEST_P(VcpuOnKvm, ImmediateExitIsSeenAndCleared) {
  Side source = NewSource(Program::kPortIo);
  source.vcpu->RequestImmediateExit();
  EXPECT_EQ(source.vcpu->Run().value(), VcpuExit::kInterrupted);
  source.vcpu->ClearImmediateExit();
  EXPECT_EQ(source.vcpu->Run().value(), VcpuExit::kIo);
  EXPECT_TRUE(source.vcpu->CompletePendingIo().ok());
  EXPECT_EQ(source.vcpu->Run().value(), VcpuExit::kInterrupted);  // the request stays
}

// An application processor waits for INIT; its registers must not be staged for a KVM_RUN that
// would apply them after the SIPI.
TEST_P(VcpuWithIrqchipOnKvm, AVcpuThatWaitsForInitIsCarriedToo) {
  const std::unique_ptr<Vm> source = NewVm();
  const std::unique_ptr<Vm> target = NewVm();
  const std::unique_ptr<Vcpu> boot[] = {NewVcpu(*source, 0), NewVcpu(*target, 0)};
  const std::unique_ptr<Vcpu> from = NewVcpu(*source, 1);
  const std::unique_ptr<Vcpu> to = NewVcpu(*target, 1);
  std::unique_ptr<VcpuState> state = Save(*from);
  EXPECT_EQ(state->mp_state.mp_state, unsigned{KVM_MP_STATE_UNINITIALIZED});
  state->regs.rbx = 77;
  ASSERT_TRUE(to->RestoreState(*state).ok());
  const std::unique_ptr<VcpuState> restored = Save(*to);
  EXPECT_EQ(restored->mp_state.mp_state, unsigned{KVM_MP_STATE_UNINITIALIZED});
  EXPECT_EQ(restored->regs.rbx, 77u);
}

TEST_P(VcpuWithIrqchipOnKvm, AHaltedVcpuStaysHalted) {
  Side source = NewSource(Program::kCount);
  std::unique_ptr<VcpuState> state = Save(*source.vcpu);
  state->mp_state.mp_state = KVM_MP_STATE_HALTED;
  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(Save(*target.vcpu)->mp_state.mp_state, unsigned{KVM_MP_STATE_HALTED});
}

TEST_P(VcpuOnKvm, PendingExceptionIsCarriedNotDelivered) {
  Side source = NewSource(Program::kCount);
  std::unique_ptr<VcpuState> state = Save(*source.vcpu);
  ASSERT_NE(state->events.flags & KVM_VCPUEVENT_VALID_PAYLOAD, 0u);  // since 4.20
  constexpr uint8_t kPageFault = 14;
  constexpr uint64_t kFaultAddress = 0xdead000;
  const uint64_t cr2 = state->sregs.cr2;
  state->events.exception.pending = 1;
  state->events.exception.nr = kPageFault;
  state->events.exception.has_error_code = 1;
  state->events.exception_has_payload = 1;
  state->events.exception_payload = kFaultAddress;
  Side target = NewTarget(source);
  ASSERT_TRUE(target.vcpu->RestoreState(*state).ok());
  const std::unique_ptr<VcpuState> restored = Save(*target.vcpu);
  EXPECT_EQ(restored->events.exception.pending, 1);
  EXPECT_EQ(restored->events.exception_payload, kFaultAddress);
  EXPECT_EQ(restored->sregs.cr2, cr2);
}

TEST_P(VcpuOnKvm, RefusesAStateThatIsNotForIt) {
  Side source = NewSource(Program::kCount);
  Side target = NewTarget(source);
  const std::unique_ptr<VcpuState> good = Save(*source.vcpu);
  auto bad = std::make_unique<VcpuState>(*good);
  bad->xsave_bytes *= 2;
  bad->used_bytes = VcpuStateBytes(bad->xsave_bytes);
  absl::Status status = target.vcpu->RestoreState(*bad);
  EXPECT_EQ(ReasonOf(status), "VCPU_STATE_INVALID") << status;
  *bad = *good;
  bad->blocks ^= kBlockLapic;
  EXPECT_EQ(ReasonOf(target.vcpu->RestoreState(*bad)), "VCPU_STATE_INVALID");
  *bad = *good;
  bad->msrs.entries[bad->msrs.count - 1].index = 0xdeadbeef;
  status = target.vcpu->RestoreState(*bad);
  EXPECT_EQ(ReasonOf(status), "VCPU_STATE_REFUSED") << status;
  EXPECT_NE(status.message().find("deadbeef"), absl::string_view::npos) << status;
  EXPECT_TRUE(target.vcpu->RestoreState(*good).ok());
}

TEST_P(VcpuOnKvm, ClockAndDevicesGoOnInAnotherVm) {
  constexpr uint64_t kPatienceNs = 60'000'000'000;
  const std::unique_ptr<Vm> source = NewVm();
  const std::unique_ptr<Vm> target = NewVm();
  VmState before;
  ASSERT_TRUE(source->SaveState(before).ok());
  EXPECT_EQ(before.has_irqchip, GetParam().irqchip ? 1u : 0u);
  constexpr uint64_t kFuture = 1ull << 50;  // 13 days: no clock has that by itself
  before.clock.clock += kFuture;
  if (GetParam().irqchip) {
    before.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.irq_base = 0x20;
    before.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.redirtbl[4].fields.vector = 0x34;
    before.pit.channels[0].count = 0x1234;
  }
  ASSERT_TRUE(target->RestoreState(before).ok());
  VmState after;
  ASSERT_TRUE(target->SaveState(after).ok());
  EXPECT_GE(after.clock.clock, before.clock.clock);
  EXPECT_LT(after.clock.clock, before.clock.clock + kPatienceNs);
  if (GetParam().irqchip) {
    EXPECT_EQ(after.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.irq_base, 0x20);
    EXPECT_EQ(after.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.redirtbl[4].fields.vector, 0x34);
    EXPECT_EQ(after.pit.channels[0].count, 0x1234u);
  }
  before.has_irqchip ^= 1;
  for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; ++i) before.chips[i].chip_id = i;
  EXPECT_EQ(ReasonOf(target->RestoreState(before)), "IRQCHIP_MISSING");
}

}  // namespace
}  // namespace rehome
