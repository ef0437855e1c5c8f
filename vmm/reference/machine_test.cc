// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/machine.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::ScriptedKvm;

constexpr uint32_t kMost = 3;

class MachineTest : public ::testing::Test {
 protected:
  MachineTest() {
    kernel_.extensions[KVM_CAP_MAX_VCPUS] = kMost;
    kernel_.Fail(KVM_CREATE_VM, EBUSY);  // this far, and no farther
  }
  std::string ReasonOfStart(uint32_t vcpus) {
    return ReasonOf(
        Machine::Start(host_, {.vm_id = "m", .memory_kind = MemoryKind::kMemfd, .vcpus = vcpus})
            .status());
  }

  ScriptedKvm kernel_;
  const Host host_ = {.kernel = kernel_};
};

TEST_F(MachineTest, NoVmIsMadeForMoreVcpusThanTheKernelAllows) {
  const absl::Status status = Machine::Start(host_, {.vm_id = "m", .vcpus = kMost + 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "TOO_MANY_VCPUS") << status;
  EXPECT_NE(status.message().find("3 at most"), std::string::npos) << status;
  EXPECT_EQ(kernel_.Count(KVM_CREATE_VM), 0u);
}

TEST_F(MachineTest, AVmIsMadeForAsManyVcpusAsTheKernelAllows) {
  EXPECT_EQ(ReasonOfStart(kMost), "KVM_UNAVAILABLE");
  EXPECT_EQ(kernel_.Count(KVM_CREATE_VM), 1u);
}

TEST_F(MachineTest, AKernelThatDoesNotSayAllowsFourVcpus) {
  kernel_.extensions.clear();
  EXPECT_EQ(ReasonOfStart(5), "TOO_MANY_VCPUS");
  EXPECT_EQ(kernel_.Count(KVM_CREATE_VM), 0u);
  EXPECT_EQ(ReasonOfStart(4), "KVM_UNAVAILABLE");
  EXPECT_EQ(kernel_.Count(KVM_CREATE_VM), 1u);
}

TEST_F(MachineTest, WithoutKvmThereIsNoNumber) {
  kernel_.FailOpen(ENOENT);
  EXPECT_EQ(ReasonOfStart(1), "KVM_UNAVAILABLE");
}

}  // namespace
}  // namespace rehome
