// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/probe.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

TEST(ProbeTest, SystemIoctlsAnswer) {
  TestKernel kernel;
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_API_VERSION, 0ul), 12);
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_API_VERSION, 1ul), -EINVAL);
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_VCPU_MMAP_SIZE, 0ul), 3 * 4096);
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_VCPU_MMAP_SIZE, 1ul), -EINVAL);
}

TEST(ProbeTest, VmTypesAreThoseOfTheOptions) {
  TestKernel kernel({.vm_types = {VmType::kDefault, VmType::kSevEs}});
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES), 0x9);
  for (unsigned long type = 0; type < 8; ++type) {
    UniqueFd vm(kernel.TryCreateVm(type));
    EXPECT_EQ(vm.valid(), type == 0 || type == 3) << type;
  }
  EXPECT_EQ(kernel.TryCreateVm(1), -EINVAL);
  EXPECT_EQ(kernel.TryCreateVm(uint64_t{1} << 32), -EINVAL);
}

TEST(ProbeTest, MoveIsClaimedByEveryKernelAndVm) {
  for (const auto& types : {std::set<VmType>{VmType::kDefault},
                            std::set<VmType>{VmType::kDefault, VmType::kSwProtected}}) {
    TestKernel kernel({.vm_types = types, .move_types = {}});
    EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_CHECK_EXTENSION, 206ul), 1);
    const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
    EXPECT_EQ(kernel.Call(vm.borrow(), KVM_CHECK_EXTENSION, 206ul), 1);
  }
}

TEST(ProbeTest, CapabilitiesOfTheHostAreThoseOfItsTypes) {
  TestKernel all;
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES), 8);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD), 1);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS), 3);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM), 1);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS), 64);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS), 0);
  EXPECT_EQ(all.Call(all.kvm(), KVM_CHECK_EXTENSION, 99999ul), 0);
  TestKernel stock({.vm_types = {VmType::kDefault}});
  EXPECT_EQ(stock.Call(stock.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM), 0);
}

TEST(ProbeTest, ListsSayHowLongTheyAre) {
  TestKernel kernel;
  struct {
    uint32_t count = 0;
    uint32_t padding = 0;
    kvm_cpuid_entry2 entries[64] = {};
  } cpuid;
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_SUPPORTED_CPUID, &cpuid), -E2BIG);
  EXPECT_GT(cpuid.count, 0u);
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
  struct {
    uint32_t count = 0;
    uint32_t indices[64] = {};
  } msrs;
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_MSR_INDEX_LIST, &msrs), -E2BIG);
  EXPECT_GT(msrs.count, 0u);
  EXPECT_EQ(kernel.Call(kernel.kvm(), KVM_GET_MSR_INDEX_LIST, &msrs), 0);
  EXPECT_EQ(msrs.indices[0], 0x10u);
}

}  // namespace
}  // namespace rehome::sim
