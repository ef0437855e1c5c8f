// SPDX-License-Identifier: Apache-2.0
//
// Which MSRs are saved: the ones of this CPU, found once.
#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vcpu_test_bench.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

using testing::Bench;
using testing::ScriptedKvm;

TEST(VcpuMsrs, OnlyThoseThatCanBeReadAndWrittenAreSaved) {
  Bench bench(/*sync_regs=*/false);
  const auto refuse = [](uint32_t index) {
    return [index](BorrowedFd, void* argument) {
      const auto* msrs = static_cast<const kvm_msrs*>(argument);
      const bool refused = msrs->nmsrs == 1 && msrs->entries[0].index == index;
      return SysResult{.value = refused ? 0 : static_cast<long>(msrs->nmsrs)};
    };
  };
  bench.kernel.On(KVM_GET_MSRS, refuse(0x174));
  bench.kernel.On(KVM_SET_MSRS, refuse(0x6e0));
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  ASSERT_EQ(state->msrs.count, 1u);  // 0x10 is the TSC
  EXPECT_EQ(state->msrs.entries[0].index, 0x3bu);
}

TEST(VcpuMsrs, TheTscIsOneOfThemWhereNoOffsetCarriesIt) {
  Bench bench(/*sync_regs=*/false);
  bench.kernel.Fail(KVM_GET_DEVICE_ATTR, ENXIO);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  EXPECT_FALSE(state->Has(kBlockTscOffset));
  EXPECT_EQ(state->msrs.count, 4u);
  EXPECT_EQ(state->msrs.entries[0].index, 0x10u);
  EXPECT_TRUE(bench.vcpu->RestoreState(*state).ok());
  EXPECT_EQ(bench.kernel.Count(KVM_SET_DEVICE_ATTR), 0u);
}

TEST(VcpuMsrs, ListedOnceForAllVcpusOfAVm) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  const std::unique_ptr<Vcpu> second = bench.vm->CreateVcpu(1).value();
  const std::vector<std::byte> none(8);
  ASSERT_TRUE(second->SetCpuid(none).ok());
  EXPECT_EQ(bench.kernel.Count(KVM_SET_MSRS), 0u);
  VcpuState state;
  ASSERT_TRUE(second->SaveState(state).ok());
  EXPECT_EQ(state.msrs.count, 3u);
  EXPECT_EQ(state.vcpu_index, 1u);
}

TEST(VcpuMsrs, MoreThanOneCallTakesIsRefusedEarly) {
  ScriptedKvm kernel;
  kernel.msr_indices.assign(kMaxMsrs + 1, 0x174);
  const auto vm = Vm::Create(kernel, VmType::kDefault, LinkAbi{}).value();
  const std::vector<std::byte> none(8);
  EXPECT_EQ(ReasonOf(vm->CreateVcpu(0).value()->SetCpuid(none)), "TOO_MANY_MSRS");
}

TEST(VcpuMsrs, OneThatIsRefusedLaterIsNamed) {
  Bench bench(/*sync_regs=*/false);
  bench.SetCpuid();
  const std::unique_ptr<VcpuState> state = bench.Save();
  const auto stop_at_second = [](BorrowedFd, void*) { return SysResult{.value = 1}; };
  bench.kernel.On(KVM_GET_MSRS, stop_at_second);
  VcpuState unused;
  absl::Status status = bench.vcpu->SaveState(unused);
  EXPECT_EQ(ReasonOf(status), "VCPU_STATE_SAVE_FAILED");
  EXPECT_NE(status.message().find("174"), absl::string_view::npos) << status;
  bench.kernel.On(KVM_SET_MSRS, stop_at_second);
  status = bench.vcpu->RestoreState(*state);
  EXPECT_EQ(ReasonOf(status), "VCPU_STATE_REFUSED");
  EXPECT_NE(status.message().find("174"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace rehome
