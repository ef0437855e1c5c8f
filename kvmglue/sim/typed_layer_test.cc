// SPDX-License-Identifier: Apache-2.0
//
// The typed layer (kvmglue/vm.h) and the host probe on the simulated kernel: what a VMM does in a
// migration, without the processes.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "kvmglue/capabilities.h"
#include "kvmglue/sim/fault_injector.h"
#include "kvmglue/sim/test_kit.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm.h"
#include "kvmglue/vm_state.h"

namespace rehome::sim {
namespace {

// ---- ProbeHost

TEST(ProbeHostOnSimTest, FindsWhatTheOptionsSay) {
  TestKernel kernel;
  const HostCapabilities host = ProbeHost(kernel.kernel(), LinkAbi{});
  EXPECT_EQ(host.backend, "sim");
  EXPECT_TRUE(host.Has("kvm"));
  EXPECT_TRUE(host.CanLink());
  EXPECT_TRUE(host.Has("guest_memfd_mmap"));
  EXPECT_TRUE(host.Has("memory_attributes"));
  EXPECT_TRUE(host.Has("tsc_offset"));
  for (const VmType type :
       {VmType::kDefault, VmType::kSwProtected, VmType::kSev, VmType::kSevEs, VmType::kTdx}) {
    EXPECT_TRUE(host.HasVmType(type)) << VmTypeName(type);
    EXPECT_EQ(host.CanMove(type), type != VmType::kDefault) << VmTypeName(type);
  }
}

TEST(ProbeHostOnSimTest, StockKernelCanNeitherLinkNorMove) {
  const auto options = ParseSimulatedKernelOptions("types=default,link=none,move=none");
  ASSERT_TRUE(options.ok());
  TestKernel kernel(*options);
  const HostCapabilities host = ProbeHost(kernel.kernel(), LinkAbi{});
  EXPECT_TRUE(host.HasVmType(VmType::kDefault));
  EXPECT_FALSE(host.HasVmType(VmType::kSwProtected));
  EXPECT_TRUE(host.Has("guest_memfd_mmap"));
  EXPECT_FALSE(host.CanLink());
  EXPECT_FALSE(host.CanMove(VmType::kSwProtected));
  EXPECT_FALSE(host.Has("memory_attributes"));
}

TEST(ProbeHostOnSimTest, OtherLinkNumberIsNoLink) {
  TestKernel kernel({.link_ioctl_number = 0xd5});
  EXPECT_FALSE(ProbeHost(kernel.kernel(), LinkAbi{.ioctl_number = 0xd6}).CanLink());
  EXPECT_TRUE(ProbeHost(kernel.kernel(), LinkAbi{.ioctl_number = 0xd5}).CanLink());
}

// ---- a migration

struct TypedVm {
  std::unique_ptr<Vm> vm;
  UniqueFd memory;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
};

class TypedLayerTest : public ::testing::TestWithParam<VmType> {
 protected:
  static constexpr uint32_t kVcpus = 2;

  bool IsSev() const { return GetParam() == VmType::kSev || GetParam() == VmType::kSevEs; }
  bool HasMove() const { return GetParam() != VmType::kDefault; }
  bool IsPrivate() const {
    return GetParam() == VmType::kSwProtected || GetParam() == VmType::kTdx;
  }
  bool IsProtected() const { return GetParam() == VmType::kSevEs || GetParam() == VmType::kTdx; }

  // A VM with `memory` (of its own, or a link) bound, and vCPUs with CPUID.
  void Finish(TypedVm& made, UniqueFd memory) {
    made.memory = std::move(memory);
    const Memslot slot = {.slot = 0,
                          .gpa = kGuestGpa,
                          .size_bytes = kGuestSize,
                          .flags = kMemslotGuestMemfd,
                          .hva = pages_.address()};
    ASSERT_TRUE(made.vm->SetMemslot(slot, made.memory.borrow()).ok());
    for (uint32_t i = 0; i < kVcpus; ++i) {
      auto vcpu = made.vm->CreateVcpu(i);
      ASSERT_TRUE(vcpu.ok()) << vcpu.status();
      auto cpuid = DefaultCpuid(kernel_.kernel(), i, kVcpus);
      ASSERT_TRUE(cpuid.ok());
      ASSERT_TRUE((*vcpu)->SetCpuid(*cpuid).ok());
      made.vcpus.push_back(*std::move(vcpu));
    }
  }
  std::unique_ptr<Vm> NewVm() {
    auto vm = Vm::Create(kernel_.kernel(), GetParam(), LinkAbi{});
    EXPECT_TRUE(vm.ok()) << vm.status();
    EXPECT_TRUE((*vm)->CreateIrqchip().ok());
    return *std::move(vm);
  }
  void MakeSource(TypedVm& source) {
    source.vm = NewVm();
    if (IsSev()) {
      ASSERT_TRUE(source.vm->InitSev().ok());
    }
    const uint64_t flags = IsPrivate() ? 0 : kGuestMemfdMmap | kGuestMemfdInitShared;
    auto memory = source.vm->CreateGuestMemfd(kGuestSize, flags);
    ASSERT_TRUE(memory.ok()) << memory.status();
    Finish(source, *std::move(memory));
    if (IsPrivate()) {
      ASSERT_TRUE(source.vm->SetPrivate(kGuestGpa, kGuestSize, true).ok());
    }
    if (IsSev()) {
      const MemoryRange range = {.gpa = kGuestGpa, .size_bytes = kGuestSize};
      const absl::Status launched = source.vm->LaunchSev({&range, 1});
      ASSERT_TRUE(launched.ok()) << launched;
    }
  }
  void MakeTarget(TypedVm& target, const TypedVm& source) {
    target.vm = NewVm();
    auto link = target.vm->LinkGuestMemfd(source.memory.borrow());
    ASSERT_TRUE(link.ok()) << link.status();
    Finish(target, *std::move(link));
  }

  TestKernel kernel_;
  HostPages pages_{kGuestSize};
};

TEST_P(TypedLayerTest, StateArrivesInTheTargetAsItLeftTheSource) {
  TypedVm source, target;
  MakeSource(source);
  MakeTarget(target, source);
  if (HasFatalFailure()) return;

  std::vector<VcpuState> saved(kVcpus);
  for (uint32_t i = 0; i < kVcpus; ++i) {
    if (!IsProtected()) {
      kvm_regs regs = {};
      regs.r12 = 100 + i;
      regs.rip = static_cast<uint64_t>(Program::kHalt);
      ASSERT_EQ(kernel_.Call(source.vcpus[i]->fd(), KVM_SET_REGS, &regs), 0);
    }
    const absl::Status status = source.vcpus[i]->SaveState(saved[i]);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(saved[i].Validate().ok());
  }
  VmState devices;
  ASSERT_TRUE(source.vm->SaveState(devices).ok());
  if (HasMove()) {
    const absl::Status moved = target.vm->MoveEncContextFrom(source.vm->fd());
    ASSERT_TRUE(moved.ok()) << moved;
    EXPECT_EQ(ReasonOf(source.vm->Probe()), "VM_DEAD");
  }
  ASSERT_TRUE(target.vm->RestoreState(devices).ok());
  for (uint32_t i = 0; i < kVcpus; ++i) {
    const absl::Status status = target.vcpus[i]->RestoreState(saved[i]);
    ASSERT_TRUE(status.ok()) << status;
    VcpuState again;
    ASSERT_TRUE(target.vcpus[i]->SaveState(again).ok());
    EXPECT_EQ(again.blocks, saved[i].blocks);
    EXPECT_EQ(again.tsc_offset, saved[i].tsc_offset);
    if (IsProtected()) continue;
    EXPECT_EQ(again.regs.r12, 100u + i);
    EXPECT_EQ(std::memcmp(&again.sregs, &saved[i].sregs, sizeof(again.sregs)), 0);
    EXPECT_EQ(std::memcmp(&again.lapic, &saved[i].lapic, sizeof(again.lapic)), 0);
  }
}

TEST_P(TypedLayerTest, RefusedMoveIsNamedAndTheSourceLives) {
  if (!HasMove()) {
    // The default type has no MOVE: the probe has to say so, whatever the source.
    TypedVm source, target;
    MakeSource(source);
    MakeTarget(target, source);
    EXPECT_FALSE(target.vm->MoveEncContextFrom(source.vm->fd()).ok());
    EXPECT_TRUE(source.vm->Probe().ok());
    return;
  }
  TypedVm source;
  MakeSource(source);
  const auto other = Vm::Create(kernel_.kernel(), VmType::kDefault, LinkAbi{});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(ReasonOf((*other)->MoveEncContextFrom(source.vm->fd())), "MOVE_MISMATCH");
  EXPECT_TRUE(source.vm->Probe().ok());
}

TEST_P(TypedLayerTest, EveryFailureOfTheTargetsPreparationLeavesTheSourceAlive) {
  // Counts what preparing a target takes, then fails each call once.
  TypedVm source;
  MakeSource(source);
  FaultInjector counting(kernel_.kernel(), {});
  const auto prepare = [&](KvmSyscalls& kernel) {
    auto vm = Vm::Create(kernel, GetParam(), LinkAbi{});
    if (!vm.ok()) return vm.status();
    auto link = (*vm)->LinkGuestMemfd(source.memory.borrow());
    if (!link.ok()) return link.status();
    const Memslot slot = {.slot = 0,
                          .gpa = kGuestGpa,
                          .size_bytes = kGuestSize,
                          .flags = kMemslotGuestMemfd,
                          .hva = pages_.address()};
    if (auto status = (*vm)->SetMemslot(slot, link->borrow()); !status.ok()) return status;
    return (*vm)->CreateVcpu(0).status();
  };
  ASSERT_TRUE(prepare(counting).ok());
  int failed = 0;
  for (const auto& [name, calls] : counting.Calls()) {
    for (uint64_t call = 1; call <= calls; ++call) {
      const auto plan = ParseFaultPlan(name + ":" + std::to_string(call) + ":ENOMEM:once", 0xd6);
      ASSERT_TRUE(plan.ok()) << plan.status();
      FaultInjector injector(kernel_.kernel(), *plan);
      failed += prepare(injector).ok() ? 0 : 1;
      EXPECT_EQ(injector.injected(), 1u) << name;
      EXPECT_TRUE(source.vm->Probe().ok()) << name;
    }
  }
  EXPECT_GT(failed, 4);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, TypedLayerTest,
                         ::testing::Values(VmType::kDefault, VmType::kSwProtected, VmType::kSev,
                                           VmType::kSevEs, VmType::kTdx),
                         [](const auto& info) {
                           std::string name(VmTypeName(info.param));
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace rehome::sim
