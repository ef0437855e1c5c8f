// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/translate.h"

#include <gtest/gtest.h>

#include "daemon/service/translate_enums.h"
#include "google/rpc/error_details.pb.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

Migration Finished() {
  Migration migration;
  migration.id = "m-0123456789abcdef";
  migration.request.vm_id = "web-1";
  migration.request.target_profile = "vmm-2";
  migration.state = MigrationState::kSucceeded;
  migration.owner = GuestOwner::kTarget;
  migration.revision = 9;
  migration.strategy = Strategy::kMap;
  migration.fence_policy = FencePolicy::kBeforeResume;
  migration.source = {.pid = 10, .start_ticks = 11, .pidfd_inode = 12};
  migration.source_vmm = "rehome-vmm 1.0";
  migration.phases = {1000, 1100, 1300, 1310, 1310, 1700, 1750, 1760};
  migration.create_time_unix_ns = 1'700'000'000 * kSecond + 5;
  migration.end_time_unix_ns = 1'700'000'001 * kSecond;
  return migration;
}

TEST(TranslateTest, BlackoutIsBrokenDownAndAddsUp) {
  const auto blackout = BlackoutOf(Finished());
  ASSERT_TRUE(blackout.has_value());
  EXPECT_EQ(blackout->total_ns(), 760);
  const v1::Blackout::Phases& phases = blackout->phases();
  EXPECT_EQ(phases.stop_vcpus_ns(), 100);
  EXPECT_EQ(phases.save_state_ns(), 200);
  EXPECT_EQ(phases.claim_ns(), 10);
  EXPECT_EQ(phases.move_ns(), 0);
  EXPECT_EQ(phases.restore_state_ns(), 390);
  EXPECT_EQ(phases.fence_ns(), 50);
  EXPECT_EQ(phases.resume_ns(), 10);
}

TEST(TranslateTest, StampsOutOfOrderCostThePhasesOnly) {
  for (size_t phase = 1; phase + 1 < PhaseTimes().size(); ++phase) {
    for (const uint64_t stamp : {uint64_t{0}, uint64_t{999}, UINT64_MAX}) {
      Migration migration = Finished();
      migration.phases[phase] = stamp;
      const auto blackout = BlackoutOf(migration);
      ASSERT_TRUE(blackout.has_value());
      EXPECT_EQ(blackout->total_ns(), 760);
      EXPECT_FALSE(blackout->has_phases()) << phase << " " << stamp;
    }
  }
}

TEST(TranslateTest, BlackoutThatCannotBeIsNotShown) {
  Migration not_handed_over = Finished();
  not_handed_over.phases[REHOME_PHASE_RUNNING] = 0;
  EXPECT_FALSE(BlackoutOf(not_handed_over).has_value());
  Migration backwards = Finished();
  backwards.phases[REHOME_PHASE_RUNNING] = 999;
  EXPECT_FALSE(BlackoutOf(backwards).has_value());
  Migration endless = Finished();
  endless.phases[REHOME_PHASE_RUNNING] = UINT64_MAX;
  EXPECT_FALSE(BlackoutOf(endless).has_value());
  Migration longer_than_itself = Finished();
  longer_than_itself.phases[REHOME_PHASE_RUNNING] = 1000 + 2 * kSecond;
  EXPECT_FALSE(BlackoutOf(longer_than_itself).has_value());
  EXPECT_FALSE(ToProto(longer_than_itself).has_blackout());
}

TEST(TranslateTest, WhatIsNotKnownYetIsUnset) {
  Migration fresh;
  fresh.id = "m-1";
  fresh.request.vm_id = "web-1";
  fresh.request.fence_policy = FencePolicy::kAfterResume;
  const v1::Migration proto = ToProto(fresh);
  EXPECT_FALSE(proto.has_blackout());
  EXPECT_FALSE(proto.has_fence_proof());
  EXPECT_FALSE(proto.has_error());
  EXPECT_FALSE(proto.has_journal_error());
  EXPECT_FALSE(proto.has_source());
  EXPECT_FALSE(proto.has_target());
  EXPECT_FALSE(proto.has_end_time());
  EXPECT_FALSE(proto.has_deadline());
  EXPECT_FALSE(proto.guest_paused());
  EXPECT_EQ(proto.strategy(), v1::Migration::STRATEGY_UNSPECIFIED);
  EXPECT_EQ(proto.fence_policy(), v1::Migration::AFTER_RESUME) << "the requested one";
  EXPECT_EQ(proto.layout_digest(), "");
}

TEST(TranslateTest, RecordIsTakenOverWhole) {
  Migration migration = Finished();
  migration.layout_digest = 0xc0ffee;
  migration.request.deadline = std::chrono::milliseconds(1500);
  const v1::Migration proto = ToProto(migration);
  EXPECT_EQ(proto.name(), "migrations/m-0123456789abcdef");
  EXPECT_EQ(proto.vm(), "virtualMachines/web-1");
  EXPECT_EQ(proto.strategy(), v1::Migration::MAP);
  EXPECT_EQ(proto.layout_digest(), "0000000000c0ffee");
  EXPECT_EQ(proto.deadline().seconds(), 1);
  EXPECT_EQ(proto.deadline().nanos(), 500'000'000);
  EXPECT_EQ(proto.create_time().nanos(), 5);
  EXPECT_EQ(proto.source().start_ticks(), 11);
  EXPECT_EQ(proto.source().vmm(), "rehome-vmm 1.0");
  EXPECT_TRUE(proto.guest_paused());
}

TEST(TranslateTest, TheProofSaysWhoSawWhatAndWhoHoldsEachInode) {
  Migration migration = Finished();
  migration.state = MigrationState::kFailed;
  migration.memory_inodes = {{5, 6}};
  migration.fence.process_exited = true;
  migration.fence.source = migration.source;
  migration.fence.observer = {"rehomed", {40, 41, 42}};
  migration.fence.kernel_observer = {"source", migration.source};
  migration.fence.search.memory = {{.inode = {5, 6},
                                    .holders = {{20, "vmm", "fd", HolderClass::kTarget},
                                                {7, "gdb", "fd", HolderClass::kForeign}},
                                    .foreign = 1}};
  const v1::FenceProof proof = ToProto(migration).fence_proof();
  EXPECT_FALSE(proof.complete()) << "somebody still holds the memory";
  EXPECT_EQ(proof.source().pid(), 10);
  EXPECT_EQ(proof.observer(), "rehomed");
  EXPECT_EQ(proof.exit_observer().process().pidfd_inode(), 42);
  EXPECT_EQ(proof.kernel_observer().role(), "source");
  EXPECT_EQ(proof.kernel_observer().process().vmm(), "rehome-vmm 1.0");
  EXPECT_FALSE(proof.has_stop_observer());
  EXPECT_EQ(proof.inodes_checked(), 1);
  EXPECT_EQ(proof.memory(0).device(), 5u);
  EXPECT_EQ(proof.memory(0).inode(), 6u);
  EXPECT_EQ(proof.memory(0).holders(0).holder_class(), v1::FenceProof::TARGET);
  ASSERT_EQ(proof.foreign_holders_size(), 1);
  EXPECT_EQ(proof.foreign_holders(0).command(), "gdb");
}

TEST(TranslateTest, ARescueAndARestartAreToldAndTheirAbsenceToo) {
  Migration migration = Finished();
  const v1::Migration calm = ToProto(migration);
  EXPECT_FALSE(calm.has_rescue());
  EXPECT_EQ(calm.interrupted_step(), "");
  EXPECT_EQ(calm.restarts(), 0);

  migration.rescue = {.attempts = 2,
                      .dead_target = {50, 51, 52},
                      .cause = {"TARGET_DIED", "killed"},
                      .context_from_target = true,
                      .failed_attempts = {{"LAUNCH_FAILED", "no such file"}}};
  migration.interrupted_step = Step::kHandingOver;
  migration.restarts = 3;
  const v1::Migration proto = ToProto(migration);
  EXPECT_EQ(proto.rescue().attempts(), 2);
  EXPECT_EQ(proto.rescue().dead_target().start_ticks(), 51);
  EXPECT_EQ(proto.rescue().cause().message(), "killed");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(proto.rescue().cause().details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "TARGET_DIED");
  EXPECT_TRUE(proto.rescue().context_from_target());
  ASSERT_EQ(proto.rescue().failed_attempts_size(), 1);
  EXPECT_EQ(proto.rescue().failed_attempts(0).message(), "no such file");
  EXPECT_EQ(proto.interrupted_step(), "HANDING_OVER");
  EXPECT_EQ(proto.restarts(), 3);
}

TEST(TranslateTest, CodeOfAFailureFollowsFromHowItEnded) {
  struct Row {
    MigrationState state;
    GuestOwner owner;
    bool blocked;
    absl::StatusCode code;
  };
  const Row rows[] = {
      {MigrationState::kFailed, GuestOwner::kSource, true, absl::StatusCode::kFailedPrecondition},
      {MigrationState::kFailed, GuestOwner::kSource, false, absl::StatusCode::kAborted},
      {MigrationState::kRollingBack, GuestOwner::kSource, false, absl::StatusCode::kAborted},
      {MigrationState::kCancelled, GuestOwner::kSource, false, absl::StatusCode::kCancelled},
      {MigrationState::kFailed, GuestOwner::kNobody, false, absl::StatusCode::kDataLoss},
      {MigrationState::kFailed, GuestOwner::kTarget, false, absl::StatusCode::kInternal},
      {MigrationState::kIndeterminate, GuestOwner::kUndecided, false, absl::StatusCode::kUnknown},
  };
  for (const Row& row : rows) {
    Migration migration = Finished();
    migration.state = row.state;
    migration.owner = row.owner;
    migration.failure = {.reason = "SOME_REASON", .message = "why"};
    if (row.blocked) {
      migration.preflight = {{"check", PreflightCheck::Result::kFailed, "SOME_REASON", ""}};
    }
    const auto error = ErrorOf(migration);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code(), static_cast<int>(row.code));
    EXPECT_EQ(error->message(), "why");
    google::rpc::ErrorInfo info;
    ASSERT_TRUE(error->details(0).UnpackTo(&info));
    EXPECT_EQ(info.reason(), "SOME_REASON");
    EXPECT_EQ(info.metadata().at("migration"), "m-0123456789abcdef");
  }
}

TEST(TranslateTest, EveryEnumeratorHasACounterpart) {
  for (size_t number = 1; number <= kMigrationStateCount; ++number) {
    const auto state = static_cast<MigrationState>(number);
    EXPECT_EQ(v1::Migration::State_Name(ToProto(state)), MigrationStateName(state));
  }
  for (const Strategy strategy :
       {Strategy::kLinkMove, Strategy::kMapMove, Strategy::kLink, Strategy::kMap}) {
    EXPECT_EQ(v1::Migration::Strategy_Name(ToProto(strategy)), StrategyName(strategy));
  }
  for (const GuestOwner owner :
       {GuestOwner::kSource, GuestOwner::kTarget, GuestOwner::kUndecided, GuestOwner::kNobody}) {
    EXPECT_EQ(v1::Migration::GuestOwner_Name(ToProto(owner)), GuestOwnerName(owner));
  }
  for (uint32_t number = 0; number <= 5; ++number) {
    EXPECT_NE(ToProto(static_cast<VmType>(number)), v1::VM_TYPE_UNSPECIFIED);
  }
}

TEST(TranslateTest, UnknownPolicyIsNoPolicy) {
  EXPECT_EQ(FromProto(v1::Migration::AFTER_RESUME), FencePolicy::kAfterResume);
  EXPECT_EQ(FromProto(static_cast<v1::Migration::FencePolicy>(99)), std::nullopt);
}

}  // namespace
}  // namespace rehome
