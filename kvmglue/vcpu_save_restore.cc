// SPDX-License-Identifier: Apache-2.0
//
// Saving and restoring a vCPU. The order of calls is the contract with KVM; each constraint and its
// reason (x86.c and lapic.c are in arch/x86/kvm):
//
// Saving:
//   1. Pending PIO or MMIO is completed first: until then the registers are those of an instruction
//      half done (api.rst, "NOTE: For KVM_EXIT_IO").
//   2. MP_STATE before everything else: KVM_GET_MP_STATE lets a pending INIT or SIPI take effect
//      (kvm_apic_accept_events()), which changes registers, LAPIC and events.
//   3. VCPU_EVENTS last: reading other state can move an event from one place to another (an NMI
//   that
//      was queued meanwhile is taken over only by this call), and after all vCPUs have stopped: a
//      running one could still send this one an interrupt.
//
// Restoring:
//   1. CPUID before all (SetCpuid): it decides which SREGS, XCRS, XSAVE and MSRs are legal.
//   2. SREGS before LAPIC: they hold the APIC base, hence whether it is in x2APIC mode.
//   3. The TSC offset before MSRs, and LAPIC before MSRs: IA32_TSC_DEADLINE arms a timer, in guest
//   TSC,
//      and only if the LAPIC's timer is in deadline mode (kvm_set_lapic_tscdeadline_msr()).
//   4. MP_STATE after SREGS: setting SREGS that look like a reset makes a boot processor runnable
//      (__set_sregs_common()). And before EVENTS, which refuse SMM for a vCPU that waits for SIPI.
//   5. EVENTS after REGS and SREGS: those drop pending exceptions and interrupts.
// XSAVE, XCRS and DEBUGREGS depend on CPUID only.
//
// What of this is an ioctl: each costs 1 to 5 us, so with KVM_CAP_SYNC_REGS (VcpuTraits::sync_regs)
//   - saving takes REGS, SREGS and EVENTS from kvm_run, by one KVM_RUN with immediate_exit instead
//   of
//     three calls (store_regs() runs on every way out of KVM_RUN);
//   - restoring leaves REGS and EVENTS in kvm_run, and the first KVM_RUN takes them from there
//   before
//     it does anything else (sync_regs()), provided that this cannot fail any more: see CanStage().
// And what a fresh vCPU is known to hold already (Known) is not set again.
#include <cerrno>
#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vcpu_known.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vcpu_traits.h"

namespace rehome {
namespace {

constexpr uint64_t kCr0Paging = 1ull << 31;
constexpr uint64_t kCr4Pae = 1ull << 5;
constexpr uint64_t kEferLongModeActive = 1ull << 10;

// 32-bit PAE paging: the CPU holds PDPTRs that memory may not show any more; only SREGS2 has them.
bool UsesPdptrs(const kvm_sregs& sregs) {
  return (sregs.cr0 & kCr0Paging) != 0 && (sregs.cr4 & kCr4Pae) != 0 &&
         (sregs.efer & kEferLongModeActive) == 0;
}

template <typename T>
bool SameBytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

void StartState(VcpuState& state, uint32_t index) {
  state.magic = kVcpuStateMagic;
  state.version = kVcpuStateVersion;
  state.used_bytes = VcpuStateBytes(0);
  state.vcpu_index = index;
  state.blocks = 0;
  state.registers_protected = 0;
  state.xsave_bytes = 0;
  state.tsc_offset = 0;
  state.reserved = 0;
  state.msrs.count = 0;
}

absl::Status DoesNotFit(uint32_t index, std::string_view what) {
  return MakeStatus(
      absl::StatusCode::kInvalidArgument, "VCPU_STATE_INVALID",
      absl::StrCat("vCPU ", index, ": ", absl::string_view(what.data(), what.size())));
}

}  // namespace

absl::Status Vcpu::CallTscOffset(KernelCall call, unsigned long request, void* offset) const {
  kvm_device_attr attribute = {.flags = 0,
                               .group = KVM_VCPU_TSC_CTRL,
                               .attr = KVM_VCPU_TSC_OFFSET,
                               .addr = reinterpret_cast<uint64_t>(offset)};
  return Call(call, request, &attribute, "TSC offset");
}

absl::Status Vcpu::LearnState() {
  auto known = std::make_unique<Known>();
  has_tsc_offset_ =
      CallTscOffset(KernelCall::kGetVcpuState, KVM_GET_DEVICE_ATTR, &known->tsc_offset).ok();
  if (absl::Status status = FindMsrs(*traits_, fd(), has_tsc_offset_); !status.ok()) return status;
  prepared_ = true;
  if (traits_->registers_protected) return absl::OkStatus();

  const struct {
    unsigned long request;
    void* argument;
    const char* name;
  } steps[] = {
      {KVM_GET_MP_STATE, &known->mp_state, "KVM_GET_MP_STATE"},
      {KVM_GET_XCRS, &known->xcrs, "KVM_GET_XCRS"},
      {KVM_GET_DEBUGREGS, &known->debugregs, "KVM_GET_DEBUGREGS"},
  };
  for (const auto& [request, argument, name] : steps) {
    absl::Status status = Call(KernelCall::kGetVcpuState, request, argument, name);
    if (!status.ok()) return status;
  }
  known_ = std::move(known);
  known_is_true_ = true;
  return absl::OkStatus();
}

absl::Status Vcpu::SaveState(VcpuState& state) {
  if (!prepared_) {
    if (absl::Status status = LearnState(); !status.ok()) return status;
  }
  if (io_pending_) {
    if (absl::Status status = CompletePendingIo(); !status.ok()) return status;
  }
  RequestImmediateExit();
  StartState(state, index_);
  return traits_->registers_protected ? SaveProtected(state) : SaveUnprotected(state);
}

absl::Status Vcpu::SaveUnprotected(VcpuState& state) {
  state.blocks = kBlocksRequired;
  state.xsave_bytes = traits_->xsave_bytes;
  state.used_bytes = VcpuStateBytes(state.xsave_bytes);
  const unsigned long get_xsave =
      state.xsave_bytes > sizeof(kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
  const struct {
    unsigned long request;
    void* argument;
    const char* name;
  } steps[] = {
      {KVM_GET_MP_STATE, &state.mp_state, "KVM_GET_MP_STATE"},
      {get_xsave, state.xsave, "KVM_GET_XSAVE"},
      {KVM_GET_XCRS, &state.xcrs, "KVM_GET_XCRS"},
      {KVM_GET_DEBUGREGS, &state.debugregs, "KVM_GET_DEBUGREGS"},
  };
  for (const auto& [request, argument, name] : steps) {
    absl::Status status = Call(KernelCall::kGetVcpuState, request, argument, name);
    if (!status.ok()) return status;
  }
  if (absl::Status status = SaveMsrs(state); !status.ok()) return status;
  if (traits_->has_irqchip) {
    state.blocks |= kBlockLapic;
    absl::Status status =
        Call(KernelCall::kGetVcpuState, KVM_GET_LAPIC, &state.lapic, "KVM_GET_LAPIC");
    if (!status.ok()) return status;
  }
  if (has_tsc_offset_) {
    state.blocks |= kBlockTscOffset;
    absl::Status status =
        CallTscOffset(KernelCall::kGetVcpuState, KVM_GET_DEVICE_ATTR, &state.tsc_offset);
    if (!status.ok()) return status;
  }
  return traits_->sync_regs ? SaveRegistersFromRun(state) : SaveRegistersByIoctl(state);
}

absl::Status Vcpu::SaveMsrs(VcpuState& state) const {
  const VcpuMsrs& wanted = traits_->msrs;
  state.msrs.count = wanted.count;
  state.msrs.pad = 0;
  std::memcpy(state.msrs.entries, wanted.entries, wanted.count * sizeof(wanted.entries[0]));
  const SysResult result = traits_->kernel->Ioctl(fd(), KVM_GET_MSRS, &state.msrs);
  if (result.ok() && result.value == wanted.count) return absl::OkStatus();
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kGetVcpuState, result.error,
                       absl::StrCat("KVM_GET_MSRS of vCPU ", index_));
  }
  return MakeStatus(absl::StatusCode::kInternal, "VCPU_STATE_SAVE_FAILED",
                    absl::StrCat("vCPU ", index_, ": KVM_GET_MSRS stopped at MSR ",
                                 absl::Hex(wanted.entries[result.value].index)));
}

absl::Status Vcpu::SaveRegistersByIoctl(VcpuState& state) const {
  if (traits_->has_sregs2) state.blocks |= kBlockSregs2;
  const struct {
    unsigned long request;
    void* argument;
    const char* name;
  } steps[] = {
      {traits_->has_sregs2 ? KVM_GET_SREGS2 : KVM_GET_SREGS, &state.sregs, "KVM_GET_SREGS"},
      {KVM_GET_REGS, &state.regs, "KVM_GET_REGS"},
      {KVM_GET_VCPU_EVENTS, &state.events, "KVM_GET_VCPU_EVENTS"},
  };
  for (const auto& [request, argument, name] : steps) {
    absl::Status status = Call(KernelCall::kGetVcpuState, request, argument, name);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Vcpu::SaveRegistersFromRun(VcpuState& state) {
  run_->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
  const SysResult result = traits_->kernel->Ioctl(fd(), KVM_RUN, nullptr);
  run_->kvm_valid_regs = 0;  // or every exit of the guest would pay for it
  if (result.ok() || result.error != EINTR) {
    const int error = result.ok() ? EPROTO : result.error;  // it did not exit immediately
    return ErrnoStatus(KernelCall::kGetVcpuState, error,
                       absl::StrCat("KVM_RUN for the registers of vCPU ", index_));
  }
  state.regs = run_->s.regs.regs;
  state.sregs = run_->s.regs.sregs;
  state.events = run_->s.regs.events;
  if (!traits_->has_sregs2 || !UsesPdptrs(state.sregs)) return absl::OkStatus();
  state.blocks |= kBlockSregs2;
  return Call(KernelCall::kGetVcpuState, KVM_GET_SREGS2, &state.sregs2, "KVM_GET_SREGS2");
}

// Takes what KVM gives: which of these it refuses for a protected vCPU depends on the VM type and
// has changed between releases (TDX keeps the LAPIC from us, SEV-ES does not), and what it refuses
// is carried by MOVE.
absl::Status Vcpu::SaveProtected(VcpuState& state) const {
  state.registers_protected = 1;
  absl::Status status =
      Call(KernelCall::kGetVcpuState, KVM_GET_MP_STATE, &state.mp_state, "KVM_GET_MP_STATE");
  if (!status.ok()) return status;
  state.blocks = kBlockMpState;

  std::memcpy(&state.msrs, &traits_->msrs, sizeof(state.msrs));
  const SysResult msrs = traits_->kernel->Ioctl(fd(), KVM_GET_MSRS, &state.msrs);
  state.msrs.count = msrs.ok() ? static_cast<uint32_t>(msrs.value) : 0;
  if (state.msrs.count > 0) state.blocks |= kBlockMsrs;
  const struct {
    uint32_t block;
    unsigned long request;
    void* argument;
  } optional[] = {
      {kBlockLapic, KVM_GET_LAPIC, &state.lapic},
      {kBlockEvents, KVM_GET_VCPU_EVENTS, &state.events},
  };
  for (const auto& [block, request, argument] : optional) {
    if (traits_->kernel->Ioctl(fd(), request, argument).ok()) state.blocks |= block;
  }
  if (CallTscOffset(KernelCall::kGetVcpuState, KVM_GET_DEVICE_ATTR, &state.tsc_offset).ok()) {
    state.blocks |= kBlockTscOffset;
  }
  return absl::OkStatus();
}

absl::Status Vcpu::CheckFits(const VcpuState& state) const {
  if (state.registers_protected != (traits_->registers_protected ? 1u : 0u)) {
    return DoesNotFit(index_, "one side's registers are protected, the other's are not");
  }
  if (state.Has(kBlockXsave) && state.xsave_bytes != traits_->xsave_bytes) {
    return DoesNotFit(index_, absl::StrCat("XSAVE area of ", state.xsave_bytes, " bytes, here ",
                                           traits_->xsave_bytes));
  }
  if (state.Has(kBlockSregs2) && !traits_->has_sregs2) {
    return DoesNotFit(index_, "has SREGS2, which this kernel has not");
  }
  if (state.registers_protected == 1) return absl::OkStatus();
  if (state.Has(kBlockLapic) != traits_->has_irqchip) {
    return DoesNotFit(index_, "one side has an in-kernel irqchip, the other has not");
  }
  if (state.Has(kBlockTscOffset) != has_tsc_offset_) {
    return DoesNotFit(index_, "one side has a TSC offset, the other has not");
  }
  return absl::OkStatus();
}

absl::Status Vcpu::RestoreState(const VcpuState& state) {
  if (!prepared_) {
    if (absl::Status status = LearnState(); !status.ok()) return status;
  }
  if (absl::Status status = state.Validate(); !status.ok()) return status;
  if (absl::Status status = CheckFits(state); !status.ok()) return status;
  io_pending_ = false;
  run_->kvm_dirty_regs = 0;
  absl::Status status =
      traits_->registers_protected ? RestoreProtected(state) : RestoreUnprotected(state);
  known_is_true_ = false;
  return status;
}

// Whether REGS and EVENTS can wait for KVM_RUN, which comes after the verdict RUNNING and so must
// not fail on them. REGS cannot; EVENTS cannot if nothing of them needs a check against other state
// (kvm_vcpu_ioctl_x86_set_vcpu_events()). A vCPU that waits for INIT would take its registers only
// after the SIPI, over what that set.
bool Vcpu::CanStage(const VcpuState& state) const {
  const kvm_vcpu_events& events = state.events;
  return traits_->sync_regs && state.mp_state.mp_state != KVM_MP_STATE_UNINITIALIZED &&
         (events.flags & ~traits_->event_flags) == 0 && events.exception.injected == 0 &&
         events.exception.pending == 0 && events.smi.smm == 0 && events.smi.pending == 0;
}

absl::Status Vcpu::RestoreUnprotected(const VcpuState& state) {
  const bool stage = CanStage(state);
  const bool known = known_is_true_;
  uint64_t tsc_offset = state.tsc_offset;
  kvm_device_attr set_tsc_offset = {.flags = 0,
                                    .group = KVM_VCPU_TSC_CTRL,
                                    .attr = KVM_VCPU_TSC_OFFSET,
                                    .addr = reinterpret_cast<uint64_t>(&tsc_offset)};
  const unsigned long set_sregs = state.Has(kBlockSregs2) ? KVM_SET_SREGS2 : KVM_SET_SREGS;
  struct Step {
    bool needed;
    unsigned long request;
    const void* argument;
    const char* name;
  };
  const auto perform = [this](std::span<const Step> steps) {
    for (const Step& step : steps) {
      if (!step.needed) continue;
      absl::Status status = Call(KernelCall::kSetVcpuState, step.request,
                                 const_cast<void*>(step.argument), step.name);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const Step before_msrs[] = {
      {true, set_sregs, &state.sregs, "KVM_SET_SREGS"},
      {!stage, KVM_SET_REGS, &state.regs, "KVM_SET_REGS"},
      {!known || !SameBytes(state.xcrs, known_->xcrs), KVM_SET_XCRS, &state.xcrs, "KVM_SET_XCRS"},
      {true, KVM_SET_XSAVE, state.xsave, "KVM_SET_XSAVE"},
      {state.Has(kBlockTscOffset) && (!known || tsc_offset != known_->tsc_offset),
       KVM_SET_DEVICE_ATTR, &set_tsc_offset, "TSC offset"},
      {state.Has(kBlockLapic), KVM_SET_LAPIC, &state.lapic, "KVM_SET_LAPIC"},
  };
  if (absl::Status status = perform(before_msrs); !status.ok()) return status;
  if (absl::Status status = RestoreMsrs(state); !status.ok()) return status;
  const Step after_msrs[] = {
      {!known || !SameBytes(state.mp_state, known_->mp_state), KVM_SET_MP_STATE, &state.mp_state,
       "KVM_SET_MP_STATE"},
      {!known || !SameBytes(state.debugregs, known_->debugregs), KVM_SET_DEBUGREGS,
       &state.debugregs, "KVM_SET_DEBUGREGS"},
      {!stage, KVM_SET_VCPU_EVENTS, &state.events, "KVM_SET_VCPU_EVENTS"},
  };
  if (absl::Status status = perform(after_msrs); !status.ok()) return status;

  // Without in-kernel irqchip KVM_RUN takes the TPR from here (kvm_arch_vcpu_ioctl_run()).
  run_->cr8 = state.sregs.cr8;
  if (stage) {
    run_->s.regs.regs = state.regs;
    run_->s.regs.events = state.events;
    run_->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS;
  }
  return absl::OkStatus();
}

absl::Status Vcpu::RestoreMsrs(const VcpuState& state) const {
  if (state.msrs.count == 0) return absl::OkStatus();
  const SysResult result =
      traits_->kernel->Ioctl(fd(), KVM_SET_MSRS, const_cast<VcpuMsrs*>(&state.msrs));
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kSetVcpuState, result.error,
                       absl::StrCat("KVM_SET_MSRS of vCPU ", index_));
  }
  if (result.value == state.msrs.count) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInvalidArgument, "VCPU_STATE_REFUSED",
                    absl::StrCat("vCPU ", index_, ": KVM_SET_MSRS stopped at MSR ",
                                 absl::Hex(state.msrs.entries[result.value].index)));
}

absl::Status Vcpu::RestoreProtected(const VcpuState& state) const {
  uint64_t tsc_offset = state.tsc_offset;
  if (state.Has(kBlockTscOffset)) {
    absl::Status status =
        CallTscOffset(KernelCall::kSetVcpuState, KVM_SET_DEVICE_ATTR, &tsc_offset);
    if (!status.ok()) return status;
  }
  if (state.Has(kBlockLapic)) {
    absl::Status status = Call(KernelCall::kSetVcpuState, KVM_SET_LAPIC,
                               const_cast<kvm_lapic_state*>(&state.lapic), "KVM_SET_LAPIC");
    if (!status.ok()) return status;
  }
  if (state.Has(kBlockMsrs)) {
    if (absl::Status status = RestoreMsrs(state); !status.ok()) return status;
  }
  absl::Status status = Call(KernelCall::kSetVcpuState, KVM_SET_MP_STATE,
                             const_cast<kvm_mp_state*>(&state.mp_state), "KVM_SET_MP_STATE");
  if (!status.ok() || !state.Has(kBlockEvents)) return status;
  return Call(KernelCall::kSetVcpuState, KVM_SET_VCPU_EVENTS,
              const_cast<kvm_vcpu_events*>(&state.events), "KVM_SET_VCPU_EVENTS");
}

}  // namespace rehome
