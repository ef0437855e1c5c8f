// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_VCPU_TEST_BENCH_H_
#define REHOME_KVMGLUE_VCPU_TEST_BENCH_H_

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm.h"

namespace rehome::testing {

// A kernel, a VM with irqchip on it, and a vCPU that has its CPUID.
struct Bench {
  explicit Bench(bool sync_regs, VmType type = VmType::kDefault) {
    if (sync_regs) kernel.extensions[KVM_CAP_SYNC_REGS] = KVM_SYNC_X86_VALID_FIELDS;
    kernel.extensions[KVM_CAP_SREGS2] = 1;
    vm = Vm::Create(kernel, type, LinkAbi{}).value();
    EXPECT_TRUE(vm->CreateIrqchip().ok());
    vcpu = vm->CreateVcpu(0).value();
  }
  void SetCpuid() {
    const std::vector<std::byte> none(8);
    EXPECT_TRUE(vcpu->SetCpuid(none).ok());
    kernel.calls.clear();
  }
  std::unique_ptr<VcpuState> Save() {
    auto state = std::make_unique<VcpuState>();
    const absl::Status status = vcpu->SaveState(*state);
    EXPECT_TRUE(status.ok()) << status;
    return state;
  }

  ScriptedKvm kernel;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
};

}  // namespace rehome::testing

#endif  // REHOME_KVMGLUE_VCPU_TEST_BENCH_H_
