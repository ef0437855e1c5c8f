// SPDX-License-Identifier: Apache-2.0
//
// Guests whose memory is private, moved by LINK and MOVE: nobody outside can read them, so they are
// heard at their consoles, check every step themselves, and are checked once more at the end, when
// their own vCPU copies their memory out. REHOME_TEST_KERNEL is "sim", or "kvm" for a kernel with
// kernel/patches, which is slow where it is emulated: every bound here allows for that.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/harness/meeting_place.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::MeetingPlace;
using harness::ProfileOfVersion;
using v1::Migration;

constexpr char kKernel[] = REHOME_TEST_KERNEL;
constexpr Move kMove = {Migration::LINK_MOVE, Migration::KERNEL};

class PrivateGuestTest : public Scenario {
 protected:
  void Start(const std::vector<std::string>& target_arguments = {}) {
    StartHost({.kernel = kKernel,
               .daemon_lines = {"handover_timeout_ms = 10000", "resolve_timeout_ms = 60000",
                                "deadline_ms = 600000"},
               .target_arguments = target_arguments});
  }
  void StartPrivateGuest(const std::string& vm_id = "guest", uint32_t vcpus = 1,
                         const std::string& seed = "7") {
    StartUnseenGuest({.vm_id = vm_id,
                      .vm_type = "sw-protected",
                      .memory_mib = 16,
                      .vcpus = vcpus,
                      .arguments = {"--heartbeat-ms=50", "--seed=" + seed}});
  }
};

TEST_F(PrivateGuestTest, MovesFromVmmToVmmAndTheKernelSaysThatTheSourceIsDead) {
  Start();
  StartPrivateGuest("guest", 2);
  for (const int version : {1, 2, 2}) {
    const Migration record = Migrate(RequestFor(ProfileOfVersion(version)));
    ExpectMoved(record, guest(), kMove);
    EXPECT_TRUE(record.fence_proof().kernel_vm_dead());
    EXPECT_TRUE(record.fence_proof().process_exited());
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(PrivateGuestTest, IsRescuedFromTheVmOfATargetThatDiedRightAfterMove) {
  const harness::TempDir directory;
  Start({"--die-at=moved", "--once=" + directory.File("died")});
  StartPrivateGuest();
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectMoved(record, guest(), kMove);
  EXPECT_EQ(record.rescue().attempts(), 1);
}

TEST_F(PrivateGuestTest, SurvivesADaemonThatDiesBetweenMoveAndTheFirstRun) {
  auto meeting = MeetingPlace::Open();
  ASSERT_TRUE(meeting.ok()) << meeting.status();
  Start({"--meet-at=moved", "--meet-socket=" + meeting->path()});
  StartPrivateGuest();
  const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2)));
  ASSERT_TRUE(created.ok()) << created.status();
  const auto arrival = meeting->Await(kPatience);
  ASSERT_TRUE(arrival.ok()) << arrival.status();
  host().KillDaemon();
  meeting->Release();
  const absl::Status again = host().StartDaemon();
  ASSERT_TRUE(again.ok()) << again;
  const Migration record = Watch(created->name());
  EXPECT_EQ(record.state(), Migration::SUCCEEDED) << record.DebugString();
  EXPECT_EQ(record.restarts(), 1);
  ExpectGuestLives(guest());
  EXPECT_EQ(guest().pid, arrival->pid);
  ExpectNothingLeft();
}

// The daemon's own comparison is blind to it: the target says that it has what the source has.
TEST_F(PrivateGuestTest, StaysWhereItIsIfTheKernelFindsOtherBindingsThanTheTargetTold) {
  Start({"--misbehave=binding"});
  StartPrivateGuest();
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectFailed(record, guest(), "TAKE_OVER_FAILED");
  EXPECT_TRUE(record.guest_paused());
}

// It has the guest's memory, bound, and its state: all but the right to them.
TEST_F(PrivateGuestTest, DoesNotRunInATargetThatTriesItBeforeMove) {
  Start({"--misbehave=early-run"});
  StartPrivateGuest();
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectFailed(record, guest(), "TAKE_OVER_FAILED");
  EXPECT_TRUE(record.guest_paused());
  EXPECT_NE(record.error().message().find("KVM_RUN before MOVE: a memory fault"), std::string::npos)
      << record.error().message();
}

TEST_F(PrivateGuestTest, SeveralMoveAtOnceAndNoneIsTakenForAnother) {
  const std::vector<std::string> names = {"one", "two", "three"};
  Start();
  for (const std::string& name : names) StartPrivateGuest(name, 1, std::to_string(name.size()));
  ASSERT_FALSE(HasFailure());
  std::vector<std::string> migrations;
  for (const std::string& name : names) {
    const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2), name));
    ASSERT_TRUE(created.ok()) << created.status();
    migrations.push_back(created->name());
  }
  std::vector<Migration> records;
  for (const std::string& migration : migrations) records.push_back(Watch(migration));
  for (size_t i = 0; i < names.size(); ++i) ExpectMoved(records[i], guest(names[i]), kMove);
}

}  // namespace
}  // namespace rehome
