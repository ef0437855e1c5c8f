// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_run.h"

#include <poll.h>
#include <x86intrin.h>

#include <memory>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/outcome.h"
#include "kvmglue/sim/sev.h"

namespace rehome::sim {
namespace {

// A vCPU that waits for an event looks this often whether it shall leave; a signal ends poll(2) at
// once.
constexpr int kWaitSliceMs = 1;

// The guest's IN puts `width` bytes into rax; four of them clear the upper half, as on hardware.
void StoreToRax(kvm_regs& regs, uint32_t width, uint32_t value) {
  if (width == 4) {
    regs.rax = value;
    return;
  }
  const uint64_t mask = (uint64_t{1} << (8 * width)) - 1;
  regs.rax = (regs.rax & ~mask) | (value & mask);
}

// One KVM_RUN; also the context of its steps.
class VcpuRun final : public SimVcpuContext {
 public:
  VcpuRun(LocalVm& vm, uint32_t index, SimulatedCpu& cpu)
      : vm_(vm),
        index_(index),
        cpu_(cpu),
        vcpu_(vm.object().vcpus[index]),
        run_(reinterpret_cast<kvm_run*>(vm.mapping().run_area(index))) {}

  uint32_t id() const override { return vcpu_.id; }
  uint64_t tsc() const override { return __rdtsc() + vcpu_.control.tsc_offset; }
  std::byte* Translate(uint64_t gpa, size_t length, SimAccess access) override;

  SysResult Run();

 private:
  bool MustLeave(SysResult& result);
  bool IsRunnable() const { return vcpu_.control.mp_state.mp_state == KVM_MP_STATE_RUNNABLE; }
  void CompletePendingIo();
  SimExit StepOnce();
  void Publish() { vcpu_.registers.Set({regs, sregs, PendingIo{}}); }
  void PublishPendingIo(const SimExit& exit);
  SysResult Leave(uint32_t exit_reason, int error = 0);
  SysResult LeaveForIo(const SimExit& exit);
  SysResult LeaveForFault();
  // Whether `exit` leaves KVM_RUN, and with what.
  bool Handle(const SimExit& exit, SysResult& result);

  LocalVm& vm_;
  const uint32_t index_;
  SimulatedCpu& cpu_;
  VcpuObject& vcpu_;
  kvm_run* const run_;

  std::shared_ptr<const MemoryView> view_;  // held during a step only
  // A slot whose userspace_addr was found mapped, and the view it is of.
  const ViewSlot* checked_slot_ = nullptr;
  uint64_t checked_version_ = 0;
  Translation fault_;
};

SysResult VcpuRun::Run() {
  if (const int error = SevEntryError(vm_.object(), index_); error != 0) return Failure(error);
  vm_.NoticeClosedFiles();
  CompletePendingIo();
  vcpu_.control.has_run = 1;
  SysResult result;
  for (;;) {
    if (MustLeave(result)) return result;
    if (!IsRunnable()) {
      poll(nullptr, 0, kWaitSliceMs);
      continue;
    }
    const SimExit exit = StepOnce();
    if (Handle(exit, result)) return result;
  }
}

bool VcpuRun::MustLeave(SysResult& result) {
  if (vm_.object().IsDead()) {
    result = Failure(EIO);
    return true;
  }
  if (__atomic_load_n(&run_->immediate_exit, __ATOMIC_ACQUIRE) != 0) {
    result = Leave(KVM_EXIT_INTR, EINTR);
    return true;
  }
  return false;
}

void VcpuRun::CompletePendingIo() {
  const VcpuRegisters current = vcpu_.registers.Get();
  if (!current.io.active) return;
  VcpuRegisters next = current;
  next.io = {};
  next.regs = current.io.after;
  if (current.io.is_in) {
    uint32_t value = 0;
    std::memcpy(&value, reinterpret_cast<std::byte*>(run_) + kPortDataOffset, current.io.width);
    StoreToRax(next.regs, current.io.width, value);
  }
  vcpu_.registers.Set(next);
}

SimExit VcpuRun::StepOnce() {
  const VcpuRegisters& current = vcpu_.registers.Get();
  regs = current.regs;
  sregs = current.sregs;
  fault_ = {};
  view_ = vm_.view();
  if (view_->version != checked_version_) checked_slot_ = nullptr;
  checked_version_ = view_->version;
  const SimExit exit = cpu_.Step(*this);
  view_.reset();
  return exit;
}

std::byte* VcpuRun::Translate(uint64_t gpa, size_t length, SimAccess access) {
  const Translation translation = view_->Translate(gpa, length, access);
  if (translation.host == nullptr) {
    fault_ = translation;
    return nullptr;
  }
  if (translation.shared_slot != nullptr && translation.shared_slot != checked_slot_) {
    const ViewSlot& slot = *translation.shared_slot;
    if (!IsHostRangeMapped(slot.shared, slot.size)) {
      fault_ = {.fault = TranslationFault::kMemoryFault, .fault_gpa = gpa & ~uint64_t{4095}};
      return nullptr;
    }
    checked_slot_ = &slot;
  }
  return translation.host;
}

bool VcpuRun::Handle(const SimExit& exit, SysResult& result) {
  switch (exit.kind) {
    case SimExit::Kind::kContinue:
      Publish();
      return false;
    case SimExit::Kind::kPortOut:
    case SimExit::Kind::kPortIn:
      result = LeaveForIo(exit);
      return true;
    case SimExit::Kind::kHalt:
      Publish();
      if (vm_.object().devices.irqchip_created) {
        vcpu_.control.mp_state.mp_state = KVM_MP_STATE_HALTED;
        return false;
      }
      result = Leave(KVM_EXIT_HLT);
      return true;
    case SimExit::Kind::kShutdown:
      Publish();
      result = Leave(KVM_EXIT_SHUTDOWN);
      return true;
    case SimExit::Kind::kMemoryFault:
      result = LeaveForFault();
      return true;
  }
  return true;
}

SysResult VcpuRun::Leave(uint32_t exit_reason, int error) {
  const kvm_sregs& current = vcpu_.registers.Get().sregs;
  run_->exit_reason = exit_reason;
  run_->cr8 = current.cr8;
  run_->apic_base = current.apic_base;
  return error == 0 ? Success() : Failure(error);
}

SysResult VcpuRun::LeaveForIo(const SimExit& exit) {
  PublishPendingIo(exit);
  run_->io.direction = exit.kind == SimExit::Kind::kPortIn ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
  run_->io.size = exit.width;
  run_->io.port = exit.port;
  run_->io.count = 1;
  run_->io.data_offset = kPortDataOffset;
  if (exit.kind == SimExit::Kind::kPortOut) {
    std::memcpy(reinterpret_cast<std::byte*>(run_) + kPortDataOffset, &exit.value, exit.width);
  }
  return Leave(KVM_EXIT_IO);
}

void VcpuRun::PublishPendingIo(const SimExit& exit) {
  VcpuRegisters next = vcpu_.registers.Get();
  next.io = {.active = 1,
             .is_in = exit.kind == SimExit::Kind::kPortIn ? 1u : 0u,
             .width = exit.width,
             .padding = 0,
             .after = regs};
  vcpu_.registers.Set(next);
}

SysResult VcpuRun::LeaveForFault() {
  if (fault_.fault != TranslationFault::kMemoryFault) {
    run_->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    run_->internal.ndata = 1;
    run_->internal.data[0] = fault_.fault_gpa;
    return Leave(KVM_EXIT_INTERNAL_ERROR);
  }
  const MemoryFaultExit fault = {
      .flags = fault_.fault_is_private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0,
      .gpa = fault_.fault_gpa,
      .size = kPageSize};
  std::memcpy(&run_->hw, &fault, sizeof(fault));
  return Leave(KVM_EXIT_MEMORY_FAULT, EFAULT);
}

}  // namespace

SysResult RunVcpu(LocalVm& vm, uint32_t index, SimulatedCpu& cpu) {
  return VcpuRun(vm, index, cpu).Run();
}

}  // namespace rehome::sim
