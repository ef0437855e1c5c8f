// SPDX-License-Identifier: Apache-2.0
//
// Admission, validation, reading.
#include "daemon/registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/testing/registry_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

TEST_F(RegistryTest, AnAdmittedMigrationIsDrivenToItsEnd) {
  const auto admitted = registry_->Create(Request(AddVm("db")));
  ASSERT_TRUE(admitted.ok()) << admitted.status();
  EXPECT_EQ(admitted->state, MigrationState::kPending);
  EXPECT_EQ(admitted->revision, 1u);
  EXPECT_EQ(admitted->vcpu_count, 2u);
  EXPECT_EQ(admitted->source.pid, 10);
  EXPECT_EQ(admitted->boot_id, kBoot);
  const Migration done = AwaitEnd(admitted->id);
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_EQ(*registry_->Get(done.id), done);
  EXPECT_EQ(journal_.Appended(done.id).front(), *admitted);
  EXPECT_EQ(journal_.Appended(done.id).back(), done);
}

TEST_F(RegistryTest, IdsHaveTheirFormAndAreNotUsedTwice) {
  std::set<std::string> ids;
  AddVm("db");
  for (int i = 0; i < 50; ++i) {
    const std::string id = MustCreate(Request("db"));
    EXPECT_EQ(id.size(), 18u);
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef", 2), std::string::npos) << id;
    ids.insert(id);
    AwaitEnd(id);
  }
  EXPECT_EQ(ids.size(), 50u);
}

TEST_F(RegistryTest, WhatCannotBeAdmittedLeavesNothing) {
  AddVm("db");
  EXPECT_EQ(CreateError(Request("unknown")), reason::kVmNotFound);
  MigrationRequest request = Request("db", std::string(kMaxRequestIdBytes + 1, 'x'));
  EXPECT_EQ(CreateError(request), reason::kBadRequestId);
  request = Request("db");
  request.deadline = std::chrono::milliseconds(-1);
  EXPECT_EQ(CreateError(request), reason::kBadDeadline);
  request.deadline = kMaxDeadline + std::chrono::milliseconds(1);
  EXPECT_EQ(CreateError(request), reason::kBadDeadline);
  request = Request("db");
  request.handover_timeout = kMaxHandoverTimeout + std::chrono::milliseconds(1);
  EXPECT_EQ(CreateError(request), reason::kBadDeadline);
  EXPECT_TRUE(ListAll().empty());
  EXPECT_TRUE(journal_.Appended().empty());
  EXPECT_EQ(effects_.created(), 0u);
}

TEST_F(RegistryTest, AnUnknownProfileIsRefusedWithTheLaunchersError) {
  Registry::Options options;
  options.check_profile = [](const std::string& profile) {
    return profile == "known"
               ? absl::OkStatus()
               : MakeStatus(absl::StatusCode::kNotFound, "PROFILE_NOT_FOUND", profile);
  };
  Start(std::move(options));
  MigrationRequest request = Request(AddVm("db"));
  EXPECT_EQ(CreateError(request), "PROFILE_NOT_FOUND");
  request.target_profile = "known";
  EXPECT_EQ(AwaitEnd(MustCreate(request)).state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, OptionsThatMakeNoSenseAreRefused) {
  for (size_t concurrent : {size_t{0}, kMaxConcurrent + 1}) {
    Registry::Options options;
    options.concurrent = concurrent;
    const auto registry = Registry::Create(std::move(options), &journal_, &vms_, &effects_);
    EXPECT_EQ(ReasonOf(registry.status()), reason::kBadConfiguration);
  }
}

TEST_F(RegistryTest, AVmHasOneMigrationAtATime) {
  effects_.HoldAt(Effect::kLaunchTarget);
  const std::string first = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kLaunchTarget);
  EXPECT_EQ(vms_.Get("db")->active_migration, first);
  const auto second = registry_->Create(Request("db"));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(second.status()), reason::kMigrationInProgress);
  EXPECT_NE(second.status().message().find(first), absl::string_view::npos);
  effects_.Release(Effect::kLaunchTarget);
  AwaitEnd(first);
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
  AwaitEnd(MustCreate(Request("db")));
}

TEST_F(RegistryTest, OfManyCallersForOneVmExactlyOneIsAdmitted) {
  effects_.HoldAt(Effect::kRunPreflight);
  AddVm("db");
  std::atomic<int> admitted = 0, refused = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 16; ++i) {
    callers.emplace_back([&] {
      const auto migration = registry_->Create(Request("db"));
      if (migration.ok()) ++admitted;
      if (ReasonOf(migration.status()) == reason::kMigrationInProgress) ++refused;
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(admitted, 1);
  EXPECT_EQ(refused, 15);
}

TEST_F(RegistryTest, OneRequestIdFromManyThreadsIsOneMigration) {
  AddVm("db");
  std::mutex mutex;
  std::set<std::string> ids;
  std::vector<std::thread> callers;
  for (int i = 0; i < 16; ++i) {
    callers.emplace_back([&] {
      const std::string id = MustCreate(Request("db", "req-1"));
      std::lock_guard<std::mutex> lock(mutex);
      ids.insert(id);
    });
  }
  for (std::thread& caller : callers) caller.join();
  ASSERT_EQ(ids.size(), 1u);
  AwaitEnd(*ids.begin());
  EXPECT_EQ(effects_.created(), 1u);
  EXPECT_EQ(ListAll().size(), 1u);
}

TEST_F(RegistryTest, ARepeatedRequestGetsItsMigrationWhateverBecameOfTheVm) {
  const std::string id = MustCreate(Request(AddVm("db"), "req-1"));
  const Migration done = AwaitEnd(id);
  vms_.Unregister(links_.back().get());
  MigrationRequest again = Request("db", "req-1");
  again.requested_by = "uid=0 pid=99";
  EXPECT_EQ(*registry_->Create(again), done);
}

TEST_F(RegistryTest, ARequestIdWithOtherParametersIsRefused) {
  AddVm("db");
  AddVm("cache", 11);
  effects_.HoldAt(Effect::kLaunchTarget);
  const std::string id = MustCreate(Request("db", "req-1"));
  for (bool finished : {false, true}) {
    MigrationRequest other = Request("cache", "req-1");
    EXPECT_EQ(CreateError(other), reason::kRequestIdReused) << finished;
    other = Request("db", "req-1");
    other.deadline = std::chrono::milliseconds(7);
    EXPECT_EQ(CreateError(other), reason::kRequestIdReused) << finished;
    effects_.Release(Effect::kLaunchTarget);
    AwaitEnd(id);
  }
}

TEST_F(RegistryTest, ARequestIdIsKnownAfterARestart) {
  const std::string id = MustCreate(Request(AddVm("db"), "req-1"));
  AwaitEnd(id);
  Start();
  EXPECT_EQ(MustCreate(Request("db", "req-1")), id);
}

TEST_F(RegistryTest, ATerminalStateIsShownOnlyWhenNothingOfTheMigrationIsLeft) {
  AddVm("db");
  for (int i = 0; i < 100; ++i) {
    const Migration done = AwaitEnd(MustCreate(Request("db")));
    ASSERT_EQ(done.state, MigrationState::kSucceeded);
    ASSERT_EQ(effects_.alive(), 0u);
    ASSERT_EQ(vms_.Get("db")->active_migration, "");
  }
}

TEST_F(RegistryTest, WatchersSeeEveryRevisionTheyWaitForAndTheEnd) {
  effects_.HoldAt(Effect::kArm);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kArm);
  std::vector<std::thread> watchers;
  std::atomic<int> ends = 0;
  for (int i = 0; i < 4; ++i) {
    watchers.emplace_back([&] {
      if (AwaitEnd(id).state == MigrationState::kSucceeded) ++ends;
    });
  }
  effects_.Release(Effect::kArm);
  for (std::thread& watcher : watchers) watcher.join();
  EXPECT_EQ(ends, 4);
}

TEST_F(RegistryTest, WaitingEndsWithTheTimeoutAndAtOnceForWhatIsFinishedOrUnknown) {
  effects_.HoldAt(Effect::kArm);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kArm);
  const uint64_t now = registry_->Get(id)->revision;
  EXPECT_EQ(registry_->WaitForChange(id, now, kNoWait)->revision, now);
  EXPECT_EQ(registry_->WaitForChange(id, 0, kBound)->revision, now);
  effects_.Release(Effect::kArm);
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(*registry_->WaitForChange(id, done.revision + 100, kBound), done);
  EXPECT_EQ(ReasonOf(registry_->WaitForChange("m-0", 0, kBound).status()),
            reason::kMigrationNotFound);
}

TEST_F(RegistryTest, ListIsNewestFirstFilteredAndPaged) {
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    const std::string vm_id = absl::StrCat("vm-", i % 2);
    if (i < 2) AddVm(vm_id, 10 + i);
    ids.insert(ids.begin(), MustCreate(Request(vm_id)));
    AwaitEnd(ids.front());
  }
  std::vector<std::string> listed;
  std::string after;
  bool more = true;
  while (more) {
    const auto page = registry_->List({}, 2, after, &more);
    ASSERT_TRUE(page.ok());
    for (const Migration& record : *page) listed.push_back(record.id);
    after = listed.back();
  }
  EXPECT_EQ(listed, ids);
  EXPECT_EQ(ListAll({.vm_id = "vm-1"}).size(), 2u);
  EXPECT_EQ(ListAll({.state = MigrationState::kSucceeded}).size(), 5u);
  EXPECT_TRUE(ListAll({.state = MigrationState::kFailed}).empty());
  EXPECT_TRUE(registry_->List({}, 10, "m-pruned", &more)->empty());
  EXPECT_FALSE(more);
}

TEST_F(RegistryTest, FinishedMigrationsBeyondTheMaximumAreForgotten) {
  Registry::Options options;
  options.max_finished = 2;
  Start(std::move(options));
  AddVm("db");
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) ids.push_back(AwaitEnd(MustCreate(Request("db"))).id);
  EXPECT_EQ(ListAll().size(), 2u);
  EXPECT_EQ(ReasonOf(registry_->Get(ids[0]).status()), reason::kMigrationNotFound);
}

TEST_F(RegistryTest, AValidationRunsThePreflightAndLeavesNoTrace) {
  MigrationRequest request = Request(AddVm("db"), "req-1");
  request.validate_only = true;
  const auto passed = registry_->Create(request);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_EQ(passed->state, MigrationState::kSucceeded);
  EXPECT_EQ(passed->id, "");
  EXPECT_EQ(passed->preflight.size(), 1u);
  ASSERT_EQ(effects_.performed().size(), 1u);
  EXPECT_EQ(effects_.performed()[0].effect, Effect::kRunPreflight);
  EXPECT_EQ(effects_.alive(), 0u);
  EXPECT_TRUE(journal_.Appended().empty());
  EXPECT_TRUE(ListAll().empty());
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
  EXPECT_NE(MustCreate(Request("db", "req-1")), "") << "the request_id is not used up";
}

TEST_F(RegistryTest, AValidationThatFailsSaysWhy) {
  effects_.On(Effect::kRunPreflight, [](const Migration& record, ::rehome::Interrupt&) {
    return FailureOutcome(Event::kRefused, "STRATEGY_UNSUPPORTED", record);
  });
  MigrationRequest request = Request(AddVm("db"));
  request.validate_only = true;
  const auto failed = registry_->Create(request);
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->state, MigrationState::kFailed);
  EXPECT_EQ(failed->failure.reason, "STRATEGY_UNSUPPORTED");
  request.vm_id = "unknown";
  EXPECT_EQ(CreateError(request), reason::kVmNotFound);
}

TEST_F(RegistryTest, AValidationFailsAsTheRealCallWouldWhileTheVmIsBusy) {
  effects_.HoldAt(Effect::kLaunchTarget);
  MigrationRequest request = Request(AddVm("db"));
  MustCreate(request);
  request.validate_only = true;
  EXPECT_EQ(CreateError(request), reason::kMigrationInProgress);
}

}  // namespace
}  // namespace rehome
