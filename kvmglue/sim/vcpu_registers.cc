// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_registers.h"

#include <cstring>

#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

// Where the reset vector lies: CS base 0xffff0000, RIP 0xfff0.
constexpr uint64_t kResetCr0 = 0x60000010;
constexpr uint64_t kResetCsBase = 0xffff0000;
constexpr uint64_t kResetRip = 0xfff0;
constexpr uint64_t kApicBase = 0xfee00000;
constexpr uint64_t kApicEnabled = 1u << 11;
constexpr uint64_t kApicBootstrap = 1u << 8;
constexpr uint64_t kResetPat = 0x0007040600070406;

kvm_segment Segment(uint8_t type, bool code_or_data) {
  kvm_segment segment = {};
  segment.limit = 0xffff;
  segment.type = type;
  segment.present = 1;
  segment.s = code_or_data ? 1 : 0;
  return segment;
}

kvm_sregs ResetSregs(uint32_t id) {
  kvm_sregs sregs = {};
  sregs.cs = Segment(0xb, true);
  sregs.cs.base = kResetCsBase;
  sregs.cs.selector = 0xf000;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = Segment(0x3, true);
  sregs.tr = Segment(0xb, false);
  sregs.ldt = Segment(0x2, false);
  sregs.gdt.limit = sregs.idt.limit = 0xffff;
  sregs.cr0 = kResetCr0;
  sregs.apic_base = kApicBase | kApicEnabled | (id == 0 ? kApicBootstrap : 0);
  return sregs;
}

void ResetControl(VcpuControl& control, uint32_t id, bool irqchip) {
  // Without the kernel's LAPIC nobody could start an application processor.
  control.mp_state.mp_state =
      irqchip && id != 0 ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
  const uint32_t apic_id = id << 24;
  const uint32_t apic_version = 0x00050014;
  std::memcpy(control.lapic.regs + 0x20, &apic_id, sizeof(apic_id));
  std::memcpy(control.lapic.regs + 0x30, &apic_version, sizeof(apic_version));
  for (size_t i = 0; i < kMsrIndices.size(); ++i) {
    if (kMsrIndices[i] == 0x277) control.msrs[i] = kResetPat;
  }
}

// The part that kvm_sregs and kvm_sregs2 have in common, up to and with apic_base.
constexpr size_t kCommonSregs = offsetof(kvm_sregs, interrupt_bitmap);
static_assert(kCommonSregs == offsetof(kvm_sregs2, flags));

SysResult SetRegs(VcpuObject& vcpu, void* argument) {
  VcpuRegisters next = vcpu.registers.Get();
  if (!CopyIn(argument, next.regs)) return Failure(EFAULT);
  next.io = {};
  vcpu.registers.Set(next);
  return Success();
}

SysResult SetSregs(VcpuObject& vcpu, void* argument) {
  VcpuRegisters next = vcpu.registers.Get();
  if (!CopyIn(argument, next.sregs)) return Failure(EFAULT);
  vcpu.registers.Set(next);
  return Success();
}

SysResult GetSregs2(const VcpuObject& vcpu, void* argument) {
  kvm_sregs2 sregs = {};
  std::memcpy(&sregs, &vcpu.registers.Get().sregs, kCommonSregs);
  sregs.flags = vcpu.control.sregs2_flags;
  std::memcpy(sregs.pdptrs, vcpu.control.pdptrs, sizeof(sregs.pdptrs));
  return CopyOutResult(argument, sregs);
}

SysResult SetSregs2(VcpuObject& vcpu, void* argument) {
  kvm_sregs2 sregs;
  if (!CopyIn(argument, sregs)) return Failure(EFAULT);
  if ((sregs.flags & ~uint64_t{KVM_SREGS2_FLAGS_PDPTRS_VALID}) != 0) return Failure(EINVAL);
  VcpuRegisters next = vcpu.registers.Get();
  std::memcpy(&next.sregs, &sregs, kCommonSregs);
  vcpu.registers.Set(next);
  vcpu.control.sregs2_flags = sregs.flags;
  std::memcpy(vcpu.control.pdptrs, sregs.pdptrs, sizeof(sregs.pdptrs));
  return Success();
}

SysResult SetXcrs(VcpuObject& vcpu, void* argument) {
  kvm_xcrs xcrs;
  if (!CopyIn(argument, xcrs)) return Failure(EFAULT);
  if (xcrs.flags != 0 || xcrs.nr_xcrs > KVM_MAX_XCRS) return Failure(EINVAL);
  for (uint32_t i = 0; i < xcrs.nr_xcrs; ++i) {
    // Only XCR0 is looked at; its bit for x87 cannot be cleared.
    if (xcrs.xcrs[i].xcr == 0 && (xcrs.xcrs[i].value & 1) == 0) return Failure(EINVAL);
  }
  vcpu.extended.xcrs = xcrs;
  return Success();
}

SysResult SetDebugRegs(VcpuObject& vcpu, void* argument) {
  kvm_debugregs debugregs;
  if (!CopyIn(argument, debugregs)) return Failure(EFAULT);
  if (debugregs.flags != 0) return Failure(EINVAL);
  if (debugregs.dr6 >> 32 != 0 || debugregs.dr7 >> 32 != 0) return Failure(EINVAL);
  vcpu.extended.debugregs = debugregs;
  return Success();
}

bool IsRegisterRequest(unsigned long request) {
  switch (request) {
    case KVM_GET_REGS:
    case KVM_SET_REGS:
    case KVM_GET_SREGS:
    case KVM_SET_SREGS:
    case KVM_GET_SREGS2:
    case KVM_SET_SREGS2:
    case KVM_GET_XSAVE:
    case KVM_GET_XSAVE2:
    case KVM_SET_XSAVE:
    case KVM_GET_XCRS:
    case KVM_SET_XCRS:
    case KVM_GET_DEBUGREGS:
    case KVM_SET_DEBUGREGS:
      return true;
    default:
      return false;
  }
}

}  // namespace

void ResetVcpu(VcpuObject& vcpu, uint32_t id, bool irqchip) {
  vcpu.id = id;
  VcpuRegisters registers = {};
  registers.regs.rip = kResetRip;
  registers.regs.rflags = 2;
  registers.sregs = ResetSregs(id);
  vcpu.registers.Set(registers);
  vcpu.extended.debugregs.dr6 = 0xffff0ff0;
  vcpu.extended.debugregs.dr7 = 0x400;
  vcpu.extended.xcrs.nr_xcrs = 1;
  vcpu.extended.xcrs.xcrs[0].value = 1;
  ResetControl(vcpu.control, id, irqchip);
}

std::optional<SysResult> VcpuRegistersIoctl(VcpuObject& vcpu, unsigned long request,
                                            void* argument) {
  if (!IsRegisterRequest(request)) return std::nullopt;
  if (vcpu.state_protected) return Failure(EINVAL);
  switch (request) {
    case KVM_GET_REGS:
      return CopyOutResult(argument, vcpu.registers.Get().regs);
    case KVM_SET_REGS:
      return SetRegs(vcpu, argument);
    case KVM_GET_SREGS:
      return CopyOutResult(argument, vcpu.registers.Get().sregs);
    case KVM_SET_SREGS:
      return SetSregs(vcpu, argument);
    case KVM_GET_SREGS2:
      return GetSregs2(vcpu, argument);
    case KVM_SET_SREGS2:
      return SetSregs2(vcpu, argument);
    case KVM_GET_XSAVE:
    case KVM_GET_XSAVE2:
      return CopyOutResult(argument, vcpu.extended.xsave);
    case KVM_SET_XSAVE:
      return CopyIn(argument, vcpu.extended.xsave) ? Success() : Failure(EFAULT);
    case KVM_GET_XCRS:
      return CopyOutResult(argument, vcpu.extended.xcrs);
    case KVM_SET_XCRS:
      return SetXcrs(vcpu, argument);
    case KVM_GET_DEBUGREGS:
      return CopyOutResult(argument, vcpu.extended.debugregs);
    default:
      return SetDebugRegs(vcpu, argument);
  }
}

}  // namespace rehome::sim
