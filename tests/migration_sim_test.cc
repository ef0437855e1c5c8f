// SPDX-License-Identifier: Apache-2.0
//
// Every row of the strategy table (daemon/strategy.h), with real processes on the simulated kernel.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/heartbeats.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::ProfileOfVersion;
using v1::Migration;

constexpr char kHeartbeat[] = "--heartbeat-ms=10";
constexpr int kHeartbeatsPerHop = 3;

struct Row {
  const char* name;
  const char* vm_type;
  std::vector<std::string> arguments;
  uint32_t vcpus;
  Migration::FencePolicy wish;
  Move move;
};

constexpr auto kNoWish = Migration::FENCE_POLICY_UNSPECIFIED;

std::vector<Row> Rows() {
  const std::string memfd = "--memory-kind=memfd";
  return {
      {"DefaultLinks", "default", {}, 1, kNoWish, {Migration::LINK, Migration::BEFORE_RESUME}},
      {"DefaultLinksFencedAfter",
       "default",
       {},
       2,
       Migration::AFTER_RESUME,
       {Migration::LINK, Migration::AFTER_RESUME}},
      {"DefaultMapsMemfd",
       "default",
       {memfd},
       2,
       kNoWish,
       {Migration::MAP, Migration::BEFORE_RESUME}},
      {"DefaultMapsMemfdFencedAfter",
       "default",
       {memfd},
       1,
       Migration::AFTER_RESUME,
       {Migration::MAP, Migration::AFTER_RESUME}},
      {"SwProtected", "sw-protected", {}, 2, kNoWish, {Migration::LINK_MOVE, Migration::KERNEL}},
      {"SwProtectedFourMemories",
       "sw-protected",
       {"--memories=4"},
       1,
       kNoWish,
       {Migration::LINK_MOVE, Migration::KERNEL}},
      {"SwProtectedFencedBefore",
       "sw-protected",
       {},
       1,
       Migration::BEFORE_RESUME,
       {Migration::LINK_MOVE, Migration::BEFORE_RESUME}},
      {"Tdx", "tdx", {}, 2, kNoWish, {Migration::LINK_MOVE, Migration::KERNEL}},
      {"Sev", "sev", {}, 2, kNoWish, {Migration::MAP_MOVE, Migration::KERNEL}},
      {"SevEs", "sev-es", {}, 2, kNoWish, {Migration::MAP_MOVE, Migration::KERNEL}},
  };
}

class StrategyTest : public Scenario, public testing::WithParamInterface<Row> {};

TEST_P(StrategyTest, ThreeHopsLeaveGuestAndUserUndisturbed) {
  const Row& row = GetParam();
  StartHost({.kernel = "sim"});
  harness::VmmOptions options = {.vm_type = row.vm_type, .vcpus = row.vcpus};
  options.arguments = row.arguments;
  options.arguments.push_back(kHeartbeat);
  StartGuest(options);
  absl::StatusOr<Heartbeats> user = Heartbeats::Attach(guest().console_path, kPatience);
  ASSERT_TRUE(user.ok()) << user.status();
  for (const int version : {2, 2, 1}) {
    v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(version));
    request.set_fence_policy(row.wish);
    const Migration record = Migrate(request);
    ExpectMoved(record, guest(), row.move);
    EXPECT_EQ(record.fence_proof().kernel_vm_dead(), row.move.policy == Migration::KERNEL);
    ASSERT_FALSE(HasFailure());
    const absl::Status heard = user->Follow(kHeartbeatsPerHop, kPatience);
    EXPECT_TRUE(heard.ok()) << heard;
  }
  const absl::Status echo = user->TypeAndAwaitEcho("still there?", kPatience);
  EXPECT_TRUE(echo.ok()) << echo;
}

INSTANTIATE_TEST_SUITE_P(, StrategyTest, testing::ValuesIn(Rows()),
                         [](const auto& info) { return std::string(info.param.name); });

class SimScenario : public Scenario {};

// There and back again, with the guest's chain unbroken and its memory that of a guest which never
// left off (ExpectMoved), in the ways that state goes: with the memory, and through MOVE.
struct RoundTrip {
  const char* name;
  int from;
  std::vector<int> through;
  const char* vm_type;
  Move move;
};

class RoundTripTest : public Scenario, public testing::WithParamInterface<RoundTrip> {};

TEST_P(RoundTripTest, AGuestGoesThereAndBackAgainIntact) {
  const RoundTrip& trip = GetParam();
  StartHost({.kernel = "sim"});
  StartGuest(
      {.version = trip.from, .vm_type = trip.vm_type, .vcpus = 2, .arguments = {kHeartbeat}});
  absl::StatusOr<Heartbeats> user = Heartbeats::Attach(guest().console_path, kPatience);
  ASSERT_TRUE(user.ok()) << user.status();
  EXPECT_EQ(GetVm("guest").process().vmm(), harness::VmmOfVersion(trip.from));
  for (const int version : trip.through) {
    const Migration record = Migrate(RequestFor(ProfileOfVersion(version)));
    ExpectMoved(record, guest(), trip.move);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(GetVm("guest").process().vmm(), harness::VmmOfVersion(version));
    // More at once than the smaller of the two serial ports holds.
    const absl::Status echo = user->TypeAndAwaitEcho("there and back again", kPatience);
    EXPECT_TRUE(echo.ok()) << echo;
  }
}

constexpr Move kLinks = {Migration::LINK, Migration::BEFORE_RESUME};
constexpr Move kMoves = {Migration::LINK_MOVE, Migration::KERNEL};

INSTANTIATE_TEST_SUITE_P(, RoundTripTest,
                         testing::Values(RoundTrip{"From2", 2, {1, 2}, "default", kLinks},
                                         RoundTrip{"From1", 1, {2, 1}, "default", kLinks},
                                         RoundTrip{"TdxFrom2", 2, {1, 2}, "tdx", kMoves},
                                         RoundTrip{"TdxFrom1", 1, {2, 1}, "tdx", kMoves}),
                         [](const auto& info) { return std::string(info.param.name); });

// A profile of a VMM that reads nothing which the source can write.
TEST_F(SimScenario, ADryRunToATargetThatCannotReadTheStateFailsAndNamesBoth) {
  const std::string program = harness::BinaryPath("vmm/reference/" + ProfileOfVersion(2));
  StartHost({.kernel = "sim",
             .profiles = {{.name = "future",
                           .command = {program, "--target", "--kernel", "sim"},
                           .environment = {},
                           .more = {"reads_state_formats = [3, 4]"}}}});
  StartGuest({.version = 2});
  v1::CreateMigrationRequest request = RequestFor("future");
  request.set_validate_only(true);
  const absl::StatusOr<Migration> dry = host().client().CreateMigration(request);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->state(), Migration::FAILED) << dry->DebugString();
  EXPECT_EQ(ReasonIn(*dry), "STATE_FORMAT_UNSUPPORTED");
  EXPECT_EQ(dry->error().message(),
            "the source VMM rehome-vmm 2.0 writes state format 1 to 2 for this guest, the target "
            "profile future reads 3, 4");
  EXPECT_FALSE(dry->has_target()) << "nothing is started for what is refused";
  ExpectStayed(guest());
  // The same, in earnest.
  request.set_validate_only(false);
  const Migration record = Migrate(request);
  ExpectFailed(record, guest(), "STATE_FORMAT_UNSUPPORTED");
  EXPECT_FALSE(record.has_target());
  EXPECT_FALSE(record.guest_paused());
}

TEST_F(SimScenario, AnSnpGuestIsRefusedInPreflightAndRunsOn) {
  StartHost({.kernel = "sim"});
  StartGuest({.vm_type = "snp"});
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectFailed(record, guest(), "SNP_REFUSED");
  EXPECT_FALSE(record.has_target()) << "nothing is started for what is refused";
  EXPECT_FALSE(record.guest_paused());
}

TEST_F(SimScenario, AFenceThatTheStrategyCannotKeepIsRefusedInPreflight) {
  StartHost({.kernel = "sim"});
  StartGuest();
  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_fence_policy(Migration::KERNEL);
  ExpectFailed(Migrate(request), guest(), "FENCE_POLICY_IMPOSSIBLE");
}

TEST_F(SimScenario, TwoGuestsMoveAtOnceAndNeitherIsTakenForTheOther) {
  constexpr int kRounds = 3;
  StartHost({.kernel = "sim"});
  StartGuest({.vm_id = "left", .vm_type = "sw-protected", .arguments = {"--seed=11"}});
  StartGuest({.vm_id = "right", .vcpus = 2, .arguments = {"--seed=22"}});
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    const auto left = host().client().CreateMigration(RequestFor(ProfileOfVersion(2), "left"));
    const auto right = host().client().CreateMigration(RequestFor(ProfileOfVersion(2), "right"));
    ASSERT_TRUE(left.ok() && right.ok()) << left.status() << right.status();
    const Migration left_end = Watch(left->name());
    const Migration right_end = Watch(right->name());
    ExpectMoved(left_end, guest("left"), {Migration::LINK_MOVE, Migration::KERNEL});
    ExpectMoved(right_end, guest("right"), {Migration::LINK, Migration::BEFORE_RESUME});
  }
}

}  // namespace
}  // namespace rehome
