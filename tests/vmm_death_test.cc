// SPDX-License-Identifier: Apache-2.0
//
// A VMM dies, at each place of a migration. Whoever it is: afterwards one process runs the guest
// and no other can, or the record says that it is lost; and that only if the guest's only state
// died. A target that dies with the guest in escrow is replaced.
#include <gtest/gtest.h>

#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::ProfileOfVersion;
using v1::Migration;

enum class Side { kSource, kTarget };

struct Variant {
  const char* name;
  const char* vm_type;
  Migration::FencePolicy wish;
  Move move;
};
const Variant kFencedBefore = {"FencedBefore",
                               "default",
                               Migration::BEFORE_RESUME,
                               {Migration::LINK, Migration::BEFORE_RESUME}};
const Variant kFencedAfter = {
    "FencedAfter", "default", Migration::AFTER_RESUME, {Migration::LINK, Migration::AFTER_RESUME}};
const Variant kMoved = {"Moved",
                        "sw-protected",
                        Migration::FENCE_POLICY_UNSPECIFIED,
                        {Migration::LINK_MOVE, Migration::KERNEL}};

struct Death {
  Side side;
  const char* place;  // vmm/reference/test_hooks.h
  Variant variant;
  std::set<Migration::GuestOwner> owners;  // who may have the guest afterwards
};

std::vector<Death> Deaths() {
  std::vector<Death> deaths;
  for (const Variant& variant : {kFencedBefore, kFencedAfter, kMoved}) {
    const bool moves = variant.move.strategy == Migration::LINK_MOVE;
    // The guest and all its state are in the source until the target has taken them over.
    for (const char* place : {"describe", "arm", "pause", "saved"}) {
      deaths.push_back({Side::kSource, place, variant, {Migration::NOBODY}});
    }
    // From then on the source is history.
    for (const char* place : {"handed-over", "release"}) {
      deaths.push_back({Side::kSource, place, variant, {Migration::TARGET}});
    }
    for (const char* place : {"prepare", "arm", "claimed"}) {
      deaths.push_back({Side::kTarget, place, variant, {Migration::SOURCE}});
    }
    if (moves) {
      // MOVE leaves the source dead, and the guest in escrow: another target takes it over.
      for (const char* place : {"moved", "committed", "restored"}) {
        deaths.push_back({Side::kTarget, place, variant, {Migration::TARGET}});
      }
    } else {
      deaths.push_back({Side::kTarget, "restored", variant, {Migration::SOURCE}});
      // A commitment lets the daemon kill the source. If it has done so already, it is a rescue
      // too.
      const bool fenced_before = variant.move.policy == Migration::BEFORE_RESUME;
      deaths.push_back({Side::kTarget, "committed", variant,
                        fenced_before
                            ? std::set<Migration::GuestOwner>{Migration::SOURCE, Migration::TARGET}
                            : std::set<Migration::GuestOwner>{Migration::SOURCE}});
    }
    for (const char* place : {"running", "first-run"}) {
      deaths.push_back({Side::kTarget, place, variant, {Migration::NOBODY}});
    }
  }
  return deaths;
}

std::string Title(const Death& death) {
  std::string title = std::string(death.variant.name) +
                      (death.side == Side::kSource ? "_source_" : "_target_") + death.place;
  for (char& c : title) c = c == '-' ? '_' : c;
  return title;
}

void PrintTo(const Death& death, std::ostream* out) { *out << Title(death); }

class VmmDeathTest : public Scenario {
 protected:
  // An honest loss: it says who died, and pretends nothing.
  void ExpectLost(const Migration& record, Side side) {
    EXPECT_EQ(record.state(), Migration::FAILED);
    const std::string who = side == Side::kSource ? "source" : "target";
    EXPECT_TRUE(absl::StrContains(record.error().message(), who)) << record.error().DebugString();
    EXPECT_EQ(record.error().code(), 15) << "DATA_LOSS: " << record.error().DebugString();
    guest().lost = true;
    EXPECT_TRUE(Eventually([&] { return GetVm("guest").name().empty(); })) << "still listed";
    ExpectNothingLeft();
  }
};

class VmmDeathAtTest : public VmmDeathTest, public testing::WithParamInterface<Death> {};

TEST_P(VmmDeathAtTest, LeavesOneOwnerOrAnHonestLoss) {
  const Death& death = GetParam();
  const harness::TempDir directory;
  const std::vector<std::string> dies = {std::string("--die-at=") + death.place,
                                         "--once=" + directory.File("died")};
  harness::HostOptions options = {.kernel = "sim"};
  harness::VmmOptions vmm = {.vm_type = death.variant.vm_type, .vcpus = 2};
  (death.side == Side::kTarget ? options.target_arguments : vmm.arguments) = dies;
  StartHost(options);
  StartGuest(vmm);

  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_fence_policy(death.variant.wish);
  const Migration record = Migrate(request);
  ASSERT_TRUE(death.owners.contains(record.guest_owner())) << record.DebugString();
  switch (record.guest_owner()) {
    case Migration::SOURCE:
      EXPECT_EQ(record.state(), Migration::FAILED);
      EXPECT_NE(ReasonIn(record), "");
      ExpectStayed(guest());
      ExpectNothingLeft();
      break;
    case Migration::TARGET:
      ExpectMoved(record, guest(), death.variant.move);
      EXPECT_EQ(record.rescue().attempts(), death.side == Side::kTarget ? 1 : 0);
      break;
    case Migration::NOBODY:
      ExpectLost(record, death.side);
      break;
    default:
      ADD_FAILURE() << record.DebugString();
  }
}

INSTANTIATE_TEST_SUITE_P(, VmmDeathAtTest, testing::ValuesIn(Deaths()),
                         [](const auto& info) { return Title(info.param); });

// Whoever can mend the profile can still have the guest: nothing is thrown away.
TEST_F(VmmDeathTest, OfEveryTargetLeavesTheGuestInEscrowAndSaysSo) {
  StartHost({.kernel = "sim", .target_arguments = {"--die-at=moved"}});
  StartGuest({.vm_type = "sw-protected"});
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  EXPECT_EQ(record.state(), Migration::INDETERMINATE) << record.DebugString();
  EXPECT_EQ(record.guest_owner(), Migration::UNDECIDED);
  EXPECT_EQ(record.rescue().attempts(), 3);
  // The source is there, with a VM that is dead, and the daemon with what a fourth target would
  // need.
  EXPECT_EQ(GetVm("guest").process().pid(), record.source().pid());
}

TEST_F(VmmDeathTest, OfBothIsALossAndIsSaidSo) {
  StartHost({.kernel = "sim", .target_arguments = {"--die-at=claimed"}});
  StartGuest({.arguments = {"--die-at=resume"}});
  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_fence_policy(Migration::AFTER_RESUME);
  const Migration record = Migrate(request);
  EXPECT_EQ(record.guest_owner(), Migration::NOBODY) << record.DebugString();
  EXPECT_TRUE(record.guest_paused());
  ExpectLost(record, Side::kTarget);
}

// A target that hangs is as good as dead, but somebody has to make it so.
class HangingTargetTest : public Scenario, public testing::WithParamInterface<const char*> {};

TEST_P(HangingTargetTest, IsKilledAndTheGuestRunsOnWhereItWas) {
  StartHost({.kernel = "sim", .target_arguments = {std::string("--hang-at=") + GetParam()}});
  StartGuest({.vcpus = 2});
  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_fence_policy(Migration::AFTER_RESUME);
  const Migration record = Migrate(request);
  EXPECT_EQ(record.state(), Migration::FAILED) << record.DebugString();
  EXPECT_EQ(record.guest_owner(), Migration::SOURCE) << record.DebugString();
  EXPECT_TRUE(record.guest_paused());
  ExpectStayed(guest());
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(, HangingTargetTest, testing::Values("claimed", "restored", "committed"),
                         [](const auto& info) { return std::string(info.param); });

class CancelTest : public Scenario {};

TEST_F(CancelTest, ACancelWhileTheTargetPreparesEndsItAndTheGuestRunsOn) {
  StartHost({.kernel = "sim", .target_arguments = {"--hang-at=prepare"}});
  StartGuest();
  const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2)));
  ASSERT_TRUE(created.ok()) << created.status();
  v1::GetMigrationRequest get;
  get.set_name(created->name());
  EXPECT_TRUE(Eventually([&] {
    const auto now = host().client().GetMigration(get);
    return now.ok() && now->state() == Migration::PREPARING && now->target().pid() != 0;
  }));
  v1::CancelMigrationRequest cancel;
  cancel.set_name(created->name());
  const auto asked = host().client().CancelMigration(cancel);
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_TRUE(asked->cancel_requested());
  const Migration record = Watch(created->name());
  ExpectFailed(record, guest(), "CANCELLED", Migration::CANCELLED);
  EXPECT_FALSE(record.guest_paused());
}

}  // namespace
}  // namespace rehome
