// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/agent_link.h"

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/fake_daemon.h"

namespace rehome {
namespace {

// A VMM of which nothing is wanted but an answer to PROBE.
class ProbedVmm : public AgentHandler {
 public:
  absl::Status Describe(bool, rehome_vm&) override { return absl::UnimplementedError(""); }
  absl::Status ArmSource(rehome_block&, uint32_t) override { return absl::UnimplementedError(""); }
  absl::Status Quiesce(rehome_block&) override { return absl::UnimplementedError(""); }
  absl::StatusOr<uint64_t> PauseAndSave(rehome_block&) override {
    return absl::UnimplementedError("");
  }
  uint64_t LayoutDigest() override { return 0; }
  absl::Status ProbeVm() override {
    std::lock_guard lock(mutex_);
    return probed_;
  }
  void Resume() override {}
  void HandedOver() override {}
  void Released() override {}
  absl::Status Prepare(rehome_agent*, uint32_t, const rehome_vm&, rehome_block&,
                       rehome_vm&) override {
    return absl::UnimplementedError("");
  }
  absl::Status ArmTarget(rehome_block&) override { return absl::UnimplementedError(""); }
  void Cancelled() override {}

  void SetProbed(absl::Status status) {
    std::lock_guard lock(mutex_);
    probed_ = std::move(status);
  }

 private:
  std::mutex mutex_;
  absl::Status probed_;
};

TEST(AgentLinkTest, TheVmIsDeadByTheKernelsWordAndByNoOtherFailure) {
  ProbedVmm vmm;
  FakePair pair = MakeFakePair();
  const VmmVersion version = {
      .name = "vmm", .version = "1", .writes = {1, 1}, .reads = {1, 1}, .writes_linux = {0, 0}};
  auto link = AgentLink::Start({.connection = UniqueFd(pair.agent_fd)}, version, vmm);
  ASSERT_TRUE(link.ok()) << link.status();
  std::optional<rehome_hello> hello = pair.daemon.AnswerHello();
  ASSERT_TRUE(hello);
  EXPECT_NE(hello->features & REHOME_FEATURE_EXACT, 0u) << "what it promises, and keeps below";

  EXPECT_EQ(pair.daemon.Probe("m-1")->vm_alive, 1u);
  vmm.SetProbed(MakeStatus(absl::StatusCode::kFailedPrecondition, "VM_DEAD", "ioctl: EIO"));
  EXPECT_EQ(pair.daemon.Probe("m-1")->vm_alive, 0u);
  for (const char* reason : {"NO_GUEST", "OUT_OF_MEMORY", "FD_LIMIT", "KVM_CALL_FAILED"}) {
    vmm.SetProbed(MakeStatus(absl::StatusCode::kFailedPrecondition, reason, "no answer"));
    EXPECT_EQ(pair.daemon.Order(REHOME_MSG_PROBE, "m-1"), REHOME_REFUSED_KERNEL) << reason;
  }
}

}  // namespace
}  // namespace rehome
