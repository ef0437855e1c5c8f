// SPDX-License-Identifier: Apache-2.0
//
// The order of calls that vcpu_save_restore.cc argues for, and what it leaves out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vcpu_test_bench.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

using testing::Bench;
using testing::ScriptedKvm;

constexpr unsigned long kTscSet = KVM_SET_DEVICE_ATTR;

// Differs from a fresh vCPU (all zeros here) in everything.
std::unique_ptr<VcpuState> Different(const VcpuState& fresh) {
  auto state = std::make_unique<VcpuState>(fresh);
  state->mp_state.mp_state = KVM_MP_STATE_HALTED;
  state->xcrs.nr_xcrs = 1;
  state->debugregs.dr7 = 0x400;
  state->tsc_offset = 99;
  return state;
}

// ---- saving

TEST(VcpuSave, MpStateIsFirstAndEventsAreLast) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  EXPECT_TRUE(state->Validate().ok()) << state->Validate();
  EXPECT_EQ(bench.kernel.calls.front(), KVM_GET_MP_STATE);
  EXPECT_EQ(bench.kernel.calls.back(), KVM_GET_VCPU_EVENTS);
  EXPECT_TRUE(state->Has(kBlocksRequired | kBlockSregs2 | kBlockLapic | kBlockTscOffset));
}

TEST(VcpuSave, SyncRegsReplaceThreeCallsByOneRunAtTheEnd) {
  Bench bench(/*sync_regs=*/true);
  bench.SetCpuid();
  bench.kernel.On(KVM_RUN, [&](BorrowedFd, void*) {
    EXPECT_EQ(bench.kernel.run->immediate_exit, 1);
    EXPECT_EQ(bench.kernel.run->kvm_valid_regs, KVM_SYNC_X86_VALID_FIELDS);
    bench.kernel.run->s.regs.regs.rip = 0x1111;
    bench.kernel.run->s.regs.sregs.cr3 = 0x2222;
    bench.kernel.run->s.regs.events.sipi_vector = 0x33;
    return SysResult{.value = -1, .error = EINTR};
  });
  const std::unique_ptr<VcpuState> state = bench.Save();
  EXPECT_EQ(bench.kernel.calls.front(), KVM_GET_MP_STATE);
  EXPECT_EQ(bench.kernel.calls.back(), KVM_RUN);
  for (const unsigned long request :
       {KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_SREGS2, KVM_GET_VCPU_EVENTS}) {
    EXPECT_EQ(bench.kernel.Count(request), 0u);
  }
  EXPECT_EQ(state->regs.rip, 0x1111u);
  EXPECT_EQ(state->sregs.cr3, 0x2222u);
  EXPECT_EQ(state->events.sipi_vector, 0x33u);
  EXPECT_EQ(bench.kernel.run->kvm_valid_regs, 0u);  // later exits do not pay for it
}

// Only KVM_GET_SREGS2 has the PDPTRs of a guest with 32-bit PAE paging.
TEST(VcpuSave, SyncRegsAskForPdptrsWhereTheGuestUsesThem) {
  Bench bench(/*sync_regs=*/true);
  bench.SetCpuid();
  kvm_sregs& sregs = bench.kernel.run->s.regs.sregs;
  sregs.cr0 = 1u << 31;
  sregs.cr4 = 1u << 5;
  EXPECT_TRUE(bench.Save()->Has(kBlockSregs2));
  EXPECT_EQ(bench.kernel.Count(KVM_GET_SREGS2), 1u);
  sregs.efer = 1u << 10;  // long mode has none
  EXPECT_FALSE(bench.Save()->Has(kBlockSregs2));
  EXPECT_EQ(bench.kernel.Count(KVM_GET_SREGS2), 1u);
}

TEST(VcpuSave, CompletesPendingIoBeforeReadingAnything) {
  for (const bool sync_regs : {false, true}) {
    Bench bench(sync_regs);
    bench.SetCpuid();
    bench.kernel.On(KVM_RUN, [](BorrowedFd, void*) { return SysResult{}; });
    bench.kernel.run->exit_reason = KVM_EXIT_IO;
    EXPECT_EQ(bench.vcpu->Run().value(), VcpuExit::kIo);
    VcpuState state;
    EXPECT_EQ(ReasonOf(bench.vcpu->SaveState(state)), "IO_PENDING");  // a second access
    bench.kernel.calls.clear();
    bench.kernel.Fail(KVM_RUN, EINTR);
    EXPECT_TRUE(bench.vcpu->SaveState(state).ok());
    EXPECT_EQ(bench.kernel.calls[0], KVM_RUN);
    EXPECT_EQ(bench.kernel.calls[1], KVM_GET_MP_STATE);
  }
}

TEST(VcpuSave, LooksNothingUpAfterSetCpuid) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  (void)bench.Save();
  EXPECT_EQ(bench.kernel.Count(KVM_GET_MSRS), 1u);
  EXPECT_EQ(bench.kernel.calls.size(), 10u);
}

TEST(VcpuSave, WithoutSetCpuidPreparesFirst) {
  Bench bench(/*sync_regs=*/false);
  EXPECT_EQ(bench.Save()->msrs.count, 3u);
}

TEST(VcpuSave, EachFailingCallIsNamed) {
  const unsigned long requests[] = {
      KVM_GET_MP_STATE, KVM_GET_XSAVE,       KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_MSRS,
      KVM_GET_LAPIC,    KVM_GET_DEVICE_ATTR, KVM_GET_REGS, KVM_GET_SREGS2,    KVM_GET_VCPU_EVENTS};
  for (const unsigned long request : requests) {
    Bench bench(/*sync_regs=*/false);
    bench.SetCpuid();
    VcpuState state;
    bench.kernel.Fail(request, EINVAL);
    absl::Status status = bench.vcpu->SaveState(state);
    EXPECT_EQ(ReasonOf(status), "VCPU_STATE_SAVE_FAILED") << status;
    bench.kernel.Fail(request, EIO);
    status = bench.vcpu->SaveState(state);
    EXPECT_EQ(ReasonOf(status), "VM_DEAD") << status;
  }
}

TEST(VcpuSave, ARunThatDoesNotExitAtOnceIsAnError) {
  Bench bench(/*sync_regs=*/true);
  bench.SetCpuid();
  VcpuState state;
  for (const int error : {0, EFAULT}) {
    bench.kernel.On(KVM_RUN, [error](BorrowedFd, void*) {
      return SysResult{.value = error == 0 ? 0 : -1, .error = error};
    });
    EXPECT_EQ(ReasonOf(bench.vcpu->SaveState(state)), "VCPU_STATE_SAVE_FAILED");
  }
  bench.kernel.Fail(KVM_RUN, EIO);
  EXPECT_EQ(ReasonOf(bench.vcpu->SaveState(state)), "VM_DEAD");
}

// ---- restoring

TEST(VcpuRestore, FollowsTheOrderThatKvmNeeds) {
  for (const bool sync_regs : {false, true}) {
    Bench bench(sync_regs);
    bench.SetCpuid();
    const std::unique_ptr<VcpuState> state = Different(*bench.Save());
    bench.kernel.calls.clear();
    ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
    const ScriptedKvm& kernel = bench.kernel;
    const unsigned long sregs = sync_regs ? KVM_SET_SREGS : KVM_SET_SREGS2;
    EXPECT_LT(kernel.At(sregs), kernel.At(KVM_SET_LAPIC));
    EXPECT_LT(kernel.At(KVM_SET_LAPIC), kernel.At(KVM_SET_MSRS));
    EXPECT_LT(kernel.At(kTscSet), kernel.At(KVM_SET_MSRS));
    EXPECT_LT(kernel.At(sregs), kernel.At(KVM_SET_MP_STATE));
    EXPECT_EQ(kernel.Count(KVM_RUN), 0u);
    if (sync_regs) continue;
    EXPECT_LT(kernel.At(KVM_SET_REGS), kernel.At(KVM_SET_VCPU_EVENTS));
    EXPECT_LT(kernel.At(KVM_SET_MP_STATE), kernel.At(KVM_SET_VCPU_EVENTS));
    EXPECT_EQ(kernel.calls.back(), KVM_SET_VCPU_EVENTS);
  }
}

TEST(VcpuRestore, SyncRegsStageRegistersAndEventsForTheFirstRun) {
  Bench bench(/*sync_regs=*/true);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  state->regs.rip = 0x1234;
  state->events.nmi.masked = 1;
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(bench.kernel.Count(KVM_SET_REGS), 0u);
  EXPECT_EQ(bench.kernel.Count(KVM_SET_VCPU_EVENTS), 0u);
  const kvm_run& run = *bench.kernel.run;
  EXPECT_EQ(run.kvm_dirty_regs, KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS);
  EXPECT_EQ(run.s.regs.regs.rip, 0x1234u);
  EXPECT_EQ(run.s.regs.events.nmi.masked, 1);
}

// What KVM could refuse must be refused before the verdict, not in the first KVM_RUN.
TEST(VcpuRestore, EventsThatKvmCouldRefuseAreSetAtOnce) {
  const std::function<void(VcpuState&)> changes[] = {
      [](VcpuState& s) { s.events.exception.pending = 1; },
      [](VcpuState& s) { s.events.exception.injected = 1; },
      [](VcpuState& s) { s.events.smi.smm = 1; },
      [](VcpuState& s) { s.events.smi.pending = 1; },
      [](VcpuState& s) { s.events.flags = KVM_VCPUEVENT_VALID_PAYLOAD; },  // cap not enabled here
      [](VcpuState& s) { s.events.flags = 1u << 31; },
      [](VcpuState& s) { s.mp_state.mp_state = KVM_MP_STATE_UNINITIALIZED; },
  };
  for (const auto& change : changes) {
    Bench bench(/*sync_regs=*/true);
    bench.SetCpuid();
    const std::unique_ptr<VcpuState> state = bench.Save();
    change(*state);
    bench.kernel.calls.clear();
    ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
    EXPECT_LT(bench.kernel.At(KVM_SET_REGS), bench.kernel.At(KVM_SET_VCPU_EVENTS));
    EXPECT_EQ(bench.kernel.run->kvm_dirty_regs, 0u);
  }
}

TEST(VcpuRestore, ASecondRestoreForgetsWhatTheFirstStaged) {
  Bench bench(/*sync_regs=*/true);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  state->events.exception.pending = 1;
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(bench.kernel.run->kvm_dirty_regs, 0u);
}

TEST(VcpuRestore, WhatAFreshVcpuHoldsIsNotSetAgain) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  const unsigned long left_out[] = {KVM_SET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_MP_STATE, kTscSet};
  bench.kernel.calls.clear();
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  for (const unsigned long request : left_out) EXPECT_EQ(bench.kernel.Count(request), 0u);
  // From then on nothing is known.
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  for (const unsigned long request : left_out) EXPECT_EQ(bench.kernel.Count(request), 1u);
}

TEST(VcpuRestore, AVcpuThatHasRunIsSetCompletely) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  (void)bench.vcpu->Run();
  bench.kernel.calls.clear();
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(bench.kernel.Count(KVM_SET_DEBUGREGS), 1u);
  EXPECT_EQ(bench.kernel.Count(kTscSet), 1u);
}

TEST(VcpuRestore, AStateThatDoesNotFitChangesNothing) {
  const std::function<void(VcpuState&)> changes[] = {
      [](VcpuState& s) { s.version = 0; },
      [](VcpuState& s) { s.blocks &= ~kBlockLapic; },
      [](VcpuState& s) { s.blocks &= ~kBlockTscOffset; },
      [](VcpuState& s) {
        s.registers_protected = 1;
        s.blocks = kBlockMpState;
        s.xsave_bytes = 0;
        s.used_bytes = VcpuStateBytes(0);
      },
      [](VcpuState& s) {
        s.xsave_bytes = 8192;
        s.used_bytes = VcpuStateBytes(8192);
      },
  };
  for (const auto& change : changes) {
    Bench bench(/*sync_regs=*/true);
    bench.SetCpuid();
    const std::unique_ptr<VcpuState> state = bench.Save();
    change(*state);
    bench.kernel.calls.clear();
    const absl::Status status = bench.vcpu->RestoreState(*state);
    EXPECT_EQ(ReasonOf(status), "VCPU_STATE_INVALID") << status;
    EXPECT_TRUE(bench.kernel.calls.empty());
  }
}

TEST(VcpuRestore, EachFailingCallIsNamed) {
  const unsigned long requests[] = {
      KVM_SET_SREGS2, KVM_SET_REGS, KVM_SET_XCRS,     KVM_SET_XSAVE,     kTscSet,
      KVM_SET_LAPIC,  KVM_SET_MSRS, KVM_SET_MP_STATE, KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS};
  for (const unsigned long request : requests) {
    Bench bench(/*sync_regs=*/false);
    bench.SetCpuid();
    const std::unique_ptr<VcpuState> state = Different(*bench.Save());
    for (const auto& [error, reason] : {std::pair{EINVAL, "VCPU_STATE_REFUSED"},
                                        {EIO, "VM_DEAD"},
                                        {EFAULT, "VCPU_STATE_RESTORE_FAILED"}}) {
      bench.kernel.Fail(request, error);
      const absl::Status status = bench.vcpu->RestoreState(*state);
      EXPECT_EQ(ReasonOf(status), reason) << status;
    }
  }
}

// ---- protected registers

TEST(VcpuProtected, NeitherReadsNorWritesWhatLiesEncrypted) {
  for (const VmType type : {VmType::kSevEs, VmType::kTdx}) {
    Bench bench(/*sync_regs=*/true, type);
    bench.SetCpuid();
    const std::unique_ptr<VcpuState> state = bench.Save();
    EXPECT_TRUE(state->Validate().ok()) << state->Validate();
    EXPECT_EQ(state->registers_protected, 1u);
    ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
    const std::set<unsigned long> made(bench.kernel.calls.begin(), bench.kernel.calls.end());
    EXPECT_EQ(made, (std::set<unsigned long>{KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_LAPIC,
                                             KVM_SET_LAPIC, KVM_GET_MSRS, KVM_SET_MSRS,
                                             KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
                                             KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR}));
    EXPECT_EQ(bench.kernel.run->kvm_dirty_regs, 0u);
  }
}

TEST(VcpuProtected, WhatKvmRefusesToReadIsLeftOut) {
  Bench bench(/*sync_regs=*/false, VmType::kTdx);
  bench.SetCpuid();
  for (const unsigned long request :
       {KVM_GET_LAPIC, KVM_GET_MSRS, KVM_GET_VCPU_EVENTS, KVM_GET_DEVICE_ATTR}) {
    bench.kernel.Fail(request, EINVAL);
  }
  const std::unique_ptr<VcpuState> state = bench.Save();
  EXPECT_EQ(state->blocks, uint32_t{kBlockMpState});
  bench.kernel.calls.clear();
  ASSERT_TRUE(bench.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(bench.kernel.calls, (std::vector<unsigned long>{KVM_SET_MP_STATE}));
}

}  // namespace
}  // namespace rehome
