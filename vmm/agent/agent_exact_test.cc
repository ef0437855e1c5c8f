// SPDX-License-Identifier: Apache-2.0
//
// Answers for which a daemon may end this process (feature EXACT): that the VM is dead, and that
// there is nothing to hand in. Neither is said when it is only that the VMM could not find out.
#include <errno.h>

#include <atomic>

#include "gtest/gtest.h"
#include "vmm/agent/agent_fixture.h"

namespace rehome {
namespace {

// What probe_vm() returns; it has no state of its own to keep it in.
std::atomic<int> probed{0};

class ExactAgent : public AgentFixture {
 protected:
  void SetUp() override {
    probed = 0;
    ops_.probe_vm = [](void*) { return probed.load(); };
    link_ = StartRegistered();
  }
  FakeLink link_;
};

TEST_F(ExactAgent, SaysThatItsVmIsAliveOrThatItIsDead) {
  std::optional<rehome_probe> probe = link_.Probe("m-1");
  ASSERT_TRUE(probe);
  EXPECT_EQ(probe->vm_alive, 1u);
  probed = -EIO;
  probe = link_.Probe("m-1");
  ASSERT_TRUE(probe);
  EXPECT_EQ(probe->vm_alive, 0u);
}

TEST_F(ExactAgent, TakesNoOtherFailureForTheDeathOfItsVm) {
  for (int error : {-EINTR, -ENOMEM, -EAGAIN, -EBADF, -EPERM, -1000, EIO, 1}) {
    probed = error;
    EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), REHOME_REFUSED_KERNEL) << error;
    EXPECT_NE(link_.refusal_text(), "") << error;
  }
  probed = 0;
  EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), 0u) << "it can be asked again";
}

TEST_F(ExactAgent, SaysThatThereIsNothingToHandInOnlyIfThereIsNot) {
  ArmedBlock block("m-1");
  EXPECT_EQ(link_.HandIn("m-1", &described_), REHOME_REFUSED_WRONG_MIGRATION);
  ASSERT_EQ(link_.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link_.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  // A VMM that cannot describe itself, and says so in the words of those that have nothing.
  vmm_.describe_refusal = REHOME_REFUSED_WRONG_MIGRATION;
  vmm_.Count(&CountingVmm::refuse_describe);
  EXPECT_EQ(link_.HandIn("m-1", &described_), REHOME_REFUSED_INTERNAL);
  EXPECT_EQ(link_.HandIn("m-2", &described_), REHOME_REFUSED_WRONG_MIGRATION);
}

}  // namespace
}  // namespace rehome
