// SPDX-License-Identifier: Apache-2.0
//
// States of a vCPU and of a VM, as the other VMM wrote them, restored against a kernel that fails
// at some call. Promises: what is accepted lies within its own bounds and within the bytes that
// came; restoring passes the kernel nothing but parts of it, with counts that the arrays have; what
// was restored and fits is refused by nothing on the way to the kernel.
#include <cerrno>
#include <cstring>
#include <memory>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm.h"
#include "kvmglue/vm_state.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

using rehome::testing::ScriptedKvm;

struct Kernel {
  uint8_t is_vm;         // 0: the state of a vCPU follows, else that of a VM
  uint8_t capabilities;  // bit 0: sync_regs, 1: sregs2, 2: irqchip
  uint16_t fails_at;     // number of the call that fails, from 1; 0: none
  uint16_t error;
};

// Looks at what KVM would read, and counts calls.
class CheckedKvm {
 public:
  explicit CheckedKvm(const Kernel& terms) : terms_(terms) {
    if ((terms.capabilities & 1) != 0) {
      kernel.extensions[KVM_CAP_SYNC_REGS] = KVM_SYNC_X86_VALID_FIELDS;
    }
    if ((terms.capabilities & 2) != 0) kernel.extensions[KVM_CAP_SREGS2] = 1;
  }
  // From here on: setting is checked, and one call fails.
  void Arm(const VcpuState* state) {
    for (unsigned long request :
         {KVM_SET_SREGS, KVM_SET_SREGS2, KVM_SET_REGS, KVM_SET_XCRS, KVM_SET_XSAVE, KVM_SET_LAPIC,
          KVM_SET_DEBUGREGS, KVM_SET_MP_STATE, KVM_SET_VCPU_EVENTS, KVM_SET_PIT2, KVM_SET_CLOCK}) {
      kernel.On(request, [this](BorrowedFd, void*) { return Answer(0); });
    }
    kernel.On(KVM_SET_IRQCHIP, [this](BorrowedFd, void* argument) {
      REHOME_PROMISE(static_cast<kvm_irqchip*>(argument)->chip_id < KVM_NR_IRQCHIPS);
      return Answer(0);
    });
    kernel.On(KVM_SET_MSRS, [this, state](BorrowedFd, void* argument) {
      const auto* msrs = static_cast<const VcpuMsrs*>(argument);
      REHOME_PROMISE(state != nullptr && msrs->count <= kMaxMsrs);
      return Answer(msrs->count);
    });
  }

  ScriptedKvm kernel;

 private:
  SysResult Answer(long value) {
    if (++calls_ != terms_.fails_at) return {.value = value};
    return {.value = -1, .error = terms_.error % 200 + 1};
  }

  const Kernel terms_;
  uint16_t calls_ = 0;
};

bool FeedVcpu(std::span<const std::byte> bytes, CheckedKvm& checked, Vm& vm) {
  const auto state = std::make_unique<VcpuState>();
  if (const absl::Status status = CopyVcpuState(bytes, *state); !status.ok()) {
    REHOME_PROMISE(ReasonOf(status) == "VCPU_STATE_INVALID");
    return false;
  }
  REHOME_PROMISE(state->used_bytes <= bytes.size() && state->used_bytes <= sizeof(VcpuState));
  REHOME_PROMISE(std::memcmp(state.get(), bytes.data(), state->used_bytes) == 0);
  const auto vcpu = vm.CreateVcpu(0);
  REHOME_PROMISE(vcpu.ok());
  const Bytes no_cpuid(8);
  REHOME_PROMISE((*vcpu)->SetCpuid(no_cpuid).ok());
  const VcpuState before = *state;
  checked.Arm(state.get());
  const absl::Status restored = (*vcpu)->RestoreState(*state);
  REHOME_PROMISE(restored.ok() || !ReasonOf(restored).empty());
  REHOME_PROMISE(std::memcmp(&before, state.get(), before.used_bytes) == 0);
  return true;
}

bool FeedVm(std::span<const std::byte> bytes, CheckedKvm& checked, Vm& vm) {
  VmState state;
  if (const absl::Status status = CopyVmState(bytes, state); !status.ok()) {
    REHOME_PROMISE(ReasonOf(status) == "VM_STATE_INVALID");
    return false;
  }
  checked.Arm(nullptr);
  const absl::Status restored = vm.RestoreState(state);
  REHOME_PROMISE(restored.ok() || !ReasonOf(restored).empty());
  return true;
}

Bytes SavedVcpu(const Kernel& terms) {
  CheckedKvm checked(terms);
  const auto vm = Vm::Create(checked.kernel, VmType::kDefault, LinkAbi{});
  REHOME_PROMISE(vm.ok());
  REHOME_PROMISE((terms.capabilities & 4) == 0 || (*vm)->CreateIrqchip().ok());
  const auto vcpu = (*vm)->CreateVcpu(0);
  const Bytes no_cpuid(8);
  const auto state = std::make_unique<VcpuState>();
  REHOME_PROMISE(vcpu.ok() && (*vcpu)->SetCpuid(no_cpuid).ok() && (*vcpu)->SaveState(*state).ok());
  const auto raw = std::as_bytes(std::span(state.get(), 1)).first(state->used_bytes);
  return Bytes(raw.begin(), raw.end());
}

Bytes SavedVm(const Kernel& terms) {
  CheckedKvm checked(terms);
  const auto vm = Vm::Create(checked.kernel, VmType::kDefault, LinkAbi{});
  REHOME_PROMISE(vm.ok());
  REHOME_PROMISE((terms.capabilities & 4) == 0 || (*vm)->CreateIrqchip().ok());
  VmState state;
  REHOME_PROMISE((*vm)->SaveState(state).ok());
  state.clock_read_ns = 1;  // the time of day would make another seed each time
  Bytes bytes;
  Append(bytes, state);
  return bytes;
}

Seed MakeSeed(std::string name, const Kernel& terms) {
  Seed seed{.name = std::move(name), .bytes = {}};
  Append(seed.bytes, terms);
  AppendBytes(seed.bytes, terms.is_vm != 0 ? SavedVm(terms) : SavedVcpu(terms));
  return seed;
}

}  // namespace

// A Kernel, then the state.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const Kernel terms = in.Take<Kernel>();
  CheckedKvm checked(terms);
  const auto vm = Vm::Create(checked.kernel, VmType::kDefault, LinkAbi{});
  REHOME_PROMISE(vm.ok());
  REHOME_PROMISE((terms.capabilities & 4) == 0 || (*vm)->CreateIrqchip().ok());
  return terms.is_vm % 2 != 0 ? FeedVm(in.rest(), checked, **vm)
                              : FeedVcpu(in.rest(), checked, **vm);
}

std::vector<Seed> Seeds() {
  return {
      MakeSeed("vcpu", {.is_vm = 0, .capabilities = 6}),
      MakeSeed("vcpu-sync-regs", {.is_vm = 0, .capabilities = 7}),
      MakeSeed("vcpu-without-irqchip", {.is_vm = 0, .capabilities = 0}),
      MakeSeed("vcpu-third-call-fails",
               {.is_vm = 0, .capabilities = 6, .fails_at = 3, .error = EINVAL}),
      MakeSeed("vm", {.is_vm = 1, .capabilities = 4}),
      MakeSeed("vm-without-irqchip", {.is_vm = 1, .capabilities = 0}),
      MakeSeed("vm-second-call-fails",
               {.is_vm = 1, .capabilities = 4, .fails_at = 2, .error = EFAULT}),
  };
}

}  // namespace rehome::fuzz
