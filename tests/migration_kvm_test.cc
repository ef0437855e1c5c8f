// SPDX-License-Identifier: Apache-2.0
//
// A running guest moves between real VMM processes on the real kernel.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "client/api_error.h"
#include "kvmglue/why_no_kvm.h"
#include "tests/heartbeats.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::ProfileOfVersion;
using v1::Migration;

// Short, so that heartbeats fall before, into and behind every hop.
constexpr char kHeartbeat[] = "--heartbeat-ms=10";
constexpr int kHeartbeatsPerHop = 5;

class KvmScenario : public Scenario {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }
};

struct Row {
  const char* name;
  std::vector<std::string> arguments;
  uint64_t memory_mib;
  uint32_t vcpus;
  size_t files;
};

class MapTest : public KvmScenario,
                public testing::WithParamInterface<std::tuple<Row, Migration::FencePolicy>> {};

TEST_P(MapTest, AGuestMovesToTheNewVersionAndOnWithoutNoticing) {
  const auto& [row, policy] = GetParam();
  StartHost({.kernel = "kvm"});
  harness::VmmOptions options = {.memory_mib = row.memory_mib, .vcpus = row.vcpus};
  options.arguments = row.arguments;
  options.arguments.push_back(kHeartbeat);
  StartGuest(options);
  EXPECT_EQ(guest().inodes.size(), row.files);
  absl::StatusOr<Heartbeats> user = Heartbeats::Attach(guest().console_path, kPatience);
  ASSERT_TRUE(user.ok()) << user.status();

  for (int hop = 1; hop <= 2; ++hop) {
    v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
    request.set_fence_policy(policy);
    const Migration record = Migrate(request);
    ExpectMoved(record, guest(), {.strategy = Migration::MAP, .policy = policy});
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(record.vcpu_count(), static_cast<int32_t>(row.vcpus));
    EXPECT_EQ(record.memory_bytes(), static_cast<int64_t>(row.memory_mib << 20));
    const absl::Status heard = user->Follow(kHeartbeatsPerHop, kPatience);
    EXPECT_TRUE(heard.ok()) << heard;
    const absl::Status echo = user->TypeAndAwaitEcho("still there?", kPatience);
    EXPECT_TRUE(echo.ok()) << echo;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , MapTest,
    testing::Combine(
        testing::Values(
            Row{"GuestMemfd", {"--memory-kind=gmem"}, 64, 1, 1},
            Row{"Memfd", {"--memory-kind=memfd"}, 64, 1, 1},
            Row{"ThreeGuestMemfdsTwoVcpus", {"--memories=3"}, 96, 2, 3},
            Row{"TwoMemfdsFourVcpus", {"--memory-kind=memfd", "--memories=2"}, 64, 4, 2},
            Row{"GuestMemfdFourVcpus", {}, 64, 4, 1}),
        testing::Values(Migration::BEFORE_RESUME, Migration::AFTER_RESUME)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) +
             (std::get<1>(info.param) == Migration::BEFORE_RESUME ? "FencedBefore" : "FencedAfter");
    });

TEST_F(KvmScenario, WithoutAWishTheSourceIsFencedBeforeTheTargetRuns) {
  StartHost({.kernel = "kvm"});
  StartGuest();
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(1))), guest(),
              {.strategy = Migration::MAP, .policy = Migration::BEFORE_RESUME});
}

TEST_F(KvmScenario, TwentyHopsInARowLeaveTheGuestAndItsUserUndisturbed) {
  constexpr int kHops = 20;
  StartHost({.kernel = "kvm"});
  StartGuest({.vcpus = 2, .arguments = {kHeartbeat}});
  absl::StatusOr<Heartbeats> user = Heartbeats::Attach(guest().console_path, kPatience);
  ASSERT_TRUE(user.ok()) << user.status();
  for (int hop = 1; hop <= kHops && !HasFailure(); ++hop) {
    v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
    const auto policy = hop % 2 == 0 ? Migration::BEFORE_RESUME : Migration::AFTER_RESUME;
    request.set_fence_policy(policy);
    ExpectMoved(Migrate(request), guest(), {.strategy = Migration::MAP, .policy = policy});
    const absl::Status heard = user->Follow(1, kPatience);
    EXPECT_TRUE(heard.ok()) << heard;
  }
  const absl::Status echo = user->TypeAndAwaitEcho("20 processes later", kPatience);
  EXPECT_TRUE(echo.ok()) << echo;
}

TEST_F(KvmScenario, AGuestGoesBackToTheVersionBeforeAndOnAgain) {
  StartHost({.kernel = "kvm"});
  StartGuest({.version = 2, .arguments = {kHeartbeat}});
  absl::StatusOr<Heartbeats> user = Heartbeats::Attach(guest().console_path, kPatience);
  ASSERT_TRUE(user.ok()) << user.status();
  for (const int version : {1, 2, 1}) {
    ExpectMoved(Migrate(RequestFor(ProfileOfVersion(version))), guest(), {});
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(GetVm("guest").process().vmm(), harness::VmmOfVersion(version));
    const absl::Status echo = user->TypeAndAwaitEcho("there and back again", kPatience);
    EXPECT_TRUE(echo.ok()) << echo;
  }
}

TEST_F(KvmScenario, ADryRunReportsEveryCheckAndStartsNothing) {
  StartHost({.kernel = "kvm"});
  StartGuest();
  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_validate_only(true);
  const absl::StatusOr<Migration> dry = host().client().CreateMigration(request);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->state(), Migration::SUCCEEDED) << dry->DebugString();
  EXPECT_EQ(dry->name(), "");
  EXPECT_EQ(dry->strategy(), Migration::MAP);
  EXPECT_FALSE(dry->has_target());
  EXPECT_FALSE(dry->guest_paused());
  std::vector<std::string> names;
  for (const v1::PreflightCheck& check : dry->preflight_checks()) {
    names.push_back(check.name());
    EXPECT_NE(check.result(), v1::PreflightCheck::FAILED) << check.DebugString();
    EXPECT_NE(check.result(), v1::PreflightCheck::RESULT_UNSPECIFIED) << check.DebugString();
  }
  EXPECT_EQ(names, (std::vector<std::string>{"source_registered", "source_description", "strategy",
                                             "source_features", "fence_policy", "source_killable",
                                             "memory_holders", "target_profile",
                                             "target_executable", "state_format"}));
  ExpectStayed(guest());
  ExpectNothingLeft();
  const auto list = host().client().ListMigrations({});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->migrations_size(), 0) << "a dry run is not recorded";
}

// A confidential VM cannot even be made on a host without the hardware; a VM of the one kind that
// KVM makes everywhere can, where the kernel has it, and no released kernel can move it.
TEST_F(KvmScenario, AProtectedVmIsRefusedInPreflightWithTheKernelsReason) {
  StartHost({.kernel = "kvm"});
  const absl::StatusOr<v1::Host> facts = host().client().GetHost();
  ASSERT_TRUE(facts.ok()) << facts.status();
  bool has_type = false, has_link = false;
  for (const v1::Capability& capability : facts->capabilities()) {
    if (capability.name() == "vm_type_sw_protected") has_type = capability.available();
    if (capability.name() == "guest_memfd_link") has_link = capability.available();
  }
  harness::VmmOptions options = {.vm_type = "sw-protected"};
  if (!has_type || has_link) {
    // The refusal then comes from the VMM itself, or there is nothing to refuse.
    const absl::StatusOr<harness::StartedVmm> vmm = host().StartVmm(options);
    EXPECT_EQ(vmm.ok(), has_type) << "the daemon's account of the kernel is not the VMM's";
    return;
  }
  const absl::StatusOr<harness::StartedVmm> vmm = host().StartVmm(options);
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  EXPECT_EQ(record.state(), Migration::FAILED);
  EXPECT_EQ(record.guest_owner(), Migration::SOURCE);
  EXPECT_EQ(ReasonIn(record), "LINK_UNSUPPORTED") << record.DebugString();
  EXPECT_TRUE(vmm->process.running());
}

}  // namespace
}  // namespace rehome
