// SPDX-License-Identifier: Apache-2.0
#include "daemon/registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/testing/fake_effects.h"
#include "daemon/testing/fake_vmm_link.h"
#include "daemon/testing/memory_journal.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr std::chrono::milliseconds kBound{30'000};
constexpr std::chrono::milliseconds kNoWait{0};
constexpr char kBoot[] = "this-boot";

class RegistryTest : public testing::Test {
 protected:
  RegistryTest() { Start(); }

  void Start(Registry::Options options = {}) {
    options.boot_id = kBoot;
    registry_.reset();
    auto registry = Registry::Create(std::move(options), &journal_, &vms_, &effects_);
    ASSERT_TRUE(registry.ok()) << registry.status();
    registry_ = *std::move(registry);
  }
  // A VM whose source process is `pid`.
  std::string AddVm(const std::string& vm_id, int32_t pid = 10) {
    VmEntry vm;
    vm.vm_id = vm_id;
    vm.vcpu_count = 2;
    vm.process = {pid, 1, 0};
    links_.push_back(std::make_shared<FakeVmmLink>(vm.process));
    EXPECT_TRUE(vms_.Register(vm, "", links_.back()).ok());
    return vm_id;
  }
  static MigrationRequest Request(const std::string& vm_id, const std::string& request_id = "") {
    MigrationRequest request;
    request.vm_id = vm_id;
    request.target_profile = "new";
    request.request_id = request_id;
    request.requested_by = "uid=0 pid=1";
    return request;
  }
  // The id of an admitted migration.
  std::string MustCreate(const MigrationRequest& request) {
    const auto migration = registry_->Create(request);
    EXPECT_TRUE(migration.ok()) << migration.status();
    return migration.ok() ? migration->id : "";
  }
  std::string CreateError(const MigrationRequest& request) {
    return ReasonOf(registry_->Create(request).status());
  }
  // The terminal record of `id`.
  Migration AwaitEnd(const std::string& id) {
    uint64_t seen = 0;
    for (size_t i = 0; i <= kMaxTransitions; ++i) {
      const auto record = registry_->WaitForChange(id, seen, kBound);
      if (!record.ok() || IsTerminal(record->state)) return record.value_or(Migration{});
      seen = record->revision;
    }
    ADD_FAILURE() << id << " does not end";
    return {};
  }
  std::vector<Migration> ListAll(const MigrationFilter& filter = {}) {
    bool more = false;
    auto page = registry_->List(filter, 1000, "", &more);
    EXPECT_TRUE(page.ok()) << page.status();
    EXPECT_FALSE(more);
    return page.value_or(std::vector<Migration>{});
  }

  VmDirectory vms_;
  FakeEffects effects_;
  MemoryJournal journal_;
  std::vector<std::shared_ptr<FakeVmmLink>> links_;
  std::unique_ptr<Registry> registry_;
};

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

struct CancelCase {
  Effect held;
  bool allowed;
  MigrationState end;
};

class CancelTest : public RegistryTest, public testing::WithParamInterface<CancelCase> {};

TEST_P(CancelTest, InEveryStepEndsAsTheContractSays) {
  const CancelCase& param = GetParam();
  effects_.HoldAt(param.held, /*interruptible=*/param.end == MigrationState::kCancelled);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(param.held);
  const auto cancelled = registry_->Cancel(id);
  if (param.allowed) {
    ASSERT_TRUE(cancelled.ok()) << cancelled.status();
    EXPECT_TRUE(cancelled->cancel_requested);
    EXPECT_TRUE(registry_->Get(id)->cancel_requested);
  } else {
    EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(cancelled.status()), reason::kPastCommit);
  }
  effects_.Release(param.held);
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, param.end);
  EXPECT_EQ(done.cancel_requested, param.allowed);
  if (param.end == MigrationState::kCancelled) {
    EXPECT_EQ(done.owner, GuestOwner::kSource);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Effects, CancelTest,
    testing::Values(CancelCase{Effect::kRunPreflight, true, MigrationState::kCancelled},
                    CancelCase{Effect::kLaunchTarget, true, MigrationState::kCancelled},
                    CancelCase{Effect::kPrepareTarget, true, MigrationState::kCancelled},
                    CancelCase{Effect::kArm, true, MigrationState::kCancelled},
                    CancelCase{Effect::kHandOver, true, MigrationState::kCancelled},
                    CancelCase{Effect::kAwaitFirstRun, false, MigrationState::kSucceeded},
                    CancelCase{Effect::kFenceSource, false, MigrationState::kSucceeded}),
    [](const auto& info) { return EffectName(info.param.held); });

TEST_F(RegistryTest, ACancelThatTheTargetOutranSucceeds) {
  effects_.HoldAt(Effect::kHandOver);
  effects_.On(Effect::kHandOver, [](const Migration& record, ::rehome::Interrupt&) {
    return HappyOutcome(Effect::kHandOver, record);
  });
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kHandOver);
  EXPECT_TRUE(registry_->Cancel(id).ok());
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_TRUE(done.cancel_requested);
}

TEST_F(RegistryTest, ACancelDuringARollbackIsAcceptedAndChangesNothing) {
  effects_.On(Effect::kLaunchTarget, [](const Migration& record, ::rehome::Interrupt&) {
    return FailureOutcome(Event::kRefused, "LAUNCH_FAILED", record);
  });
  effects_.HoldAt(Effect::kDiscardTarget, /*interruptible=*/false);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kDiscardTarget);
  EXPECT_EQ(registry_->Cancel(id)->state, MigrationState::kRollingBack);
  effects_.Release(Effect::kDiscardTarget);
  const Migration done = AwaitEnd(id);
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, "LAUNCH_FAILED");
}

TEST_F(RegistryTest, CancelSaysWhatIsUnknownAndWhatIsFinished) {
  EXPECT_EQ(ReasonOf(registry_->Cancel("m-0").status()), reason::kMigrationNotFound);
  const std::string id = MustCreate(Request(AddVm("db")));
  AwaitEnd(id);
  const auto late = registry_->Cancel(id);
  EXPECT_EQ(ReasonOf(late.status()), reason::kAlreadyFinished);
  EXPECT_NE(late.status().message().find("SUCCEEDED"), absl::string_view::npos);
}

// With one thread, held by the first migration, everything else waits in the queue.
class QueueTest : public RegistryTest {
 protected:
  QueueTest() {
    Registry::Options options;
    options.concurrent = 1;
    Start(std::move(options));
    effects_.HoldAt(Effect::kLaunchTarget);
    first_ = MustCreate(Request(AddVm("first", 1)));
    effects_.AwaitHeld(Effect::kLaunchTarget);
  }
  std::string first_;
};

TEST_F(QueueTest, AWaitingMigrationIsPendingAndRunsWhenItsTurnComes) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  EXPECT_EQ(registry_->Get(second)->state, MigrationState::kPending);
  effects_.Release(Effect::kLaunchTarget);
  EXPECT_EQ(AwaitEnd(second).state, MigrationState::kSucceeded);
  EXPECT_EQ(AwaitEnd(first_).state, MigrationState::kSucceeded);
}

TEST_F(QueueTest, AWaitingMigrationIsCancelledAtOnceThoughNoThreadIsFree) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  const auto cancelled = registry_->Cancel(second);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->state, MigrationState::kCancelled);
  EXPECT_TRUE(effects_.PerformedBy(second).empty());
  EXPECT_EQ(journal_.Appended(second).back().state, MigrationState::kCancelled);
  EXPECT_FALSE(IsTerminal(registry_->Get(first_)->state));
  EXPECT_NE(MustCreate(Request("second")), second) << "the VM is free again";
}

TEST_F(QueueTest, AWaitingMigrationFailsAtItsDeadlineThoughNoThreadIsFree) {
  MigrationRequest request = Request(AddVm("second", 2));
  request.deadline = std::chrono::milliseconds(20);
  const std::string second = MustCreate(request);
  const Migration done = AwaitEnd(second);
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kDeadlineExceeded);
  EXPECT_FALSE(IsTerminal(registry_->Get(first_)->state));
}

TEST_F(QueueTest, TheQueueIsBounded) {
  for (size_t i = 0; i < kMaxPending; ++i) {
    MustCreate(Request(AddVm(absl::StrCat("vm-", i), static_cast<int32_t>(100 + i))));
  }
  const auto beyond = registry_->Create(Request(AddVm("beyond", 99)));
  EXPECT_EQ(beyond.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(beyond.status()), reason::kQueueFull);
  EXPECT_EQ(vms_.Get("beyond")->active_migration, "");
}

TEST_F(QueueTest, StopEndsWhatRunsAndWhatWaitsWithTheGuestOnTheSource) {
  const std::string second = MustCreate(Request(AddVm("second", 2)));
  registry_->Stop();
  for (const std::string& id : {first_, second}) {
    const auto record = registry_->Get(id);
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->state, MigrationState::kFailed);
    EXPECT_EQ(record->failure.reason, reason::kShuttingDown);
    EXPECT_EQ(record->owner, GuestOwner::kSource);
  }
  EXPECT_EQ(effects_.alive(), 0u);
  EXPECT_EQ(CreateError(Request("first")), reason::kShuttingDown);
  EXPECT_EQ(ListAll().size(), 2u);
  registry_->Stop();
}

TEST_F(RegistryTest, StopWaitsForAGuestThatIsBeingHandedOver) {
  effects_.HoldAt(Effect::kFenceSource, /*interruptible=*/false);
  const std::string id = MustCreate(Request(AddVm("db")));
  effects_.AwaitHeld(Effect::kFenceSource);
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    registry_->Stop();
    stopped = true;
  });
  // The stop is under way once the answer changes.
  std::string answer = std::string(reason::kMigrationInProgress);
  while (answer == reason::kMigrationInProgress) answer = CreateError(Request("db"));
  EXPECT_EQ(answer, reason::kShuttingDown);
  EXPECT_FALSE(stopped);
  effects_.Release(Effect::kFenceSource);
  stopper.join();
  EXPECT_EQ(registry_->Get(id)->state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, ADeadlineRollsBackWhatHasNotHandedOver) {
  effects_.HoldAt(Effect::kPrepareTarget);
  MigrationRequest request = Request(AddVm("db"));
  request.deadline = std::chrono::milliseconds(30);
  const Migration done = AwaitEnd(MustCreate(request));
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kDeadlineExceeded);
  EXPECT_EQ(done.owner, GuestOwner::kSource);
  EXPECT_FALSE(done.cancel_requested);
  EXPECT_EQ(effects_.PerformedBy(done.id).back(), Effect::kDiscardTarget);
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

TEST_F(RegistryTest, WithoutAJournalNothingIsAdmittedAndTheVmStaysFree) {
  journal_.FailAppends([](const Migration&) { return MemoryJournal::Full(); });
  EXPECT_EQ(CreateError(Request(AddVm("db"), "req-1")), reason::kJournalFull);
  EXPECT_TRUE(ListAll().empty());
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
  EXPECT_EQ(effects_.created(), 0u);
  journal_.FailAppends(nullptr);
  EXPECT_EQ(AwaitEnd(MustCreate(Request("db", "req-1"))).state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, AnEndThatCouldNotBeJournalledIsShownAllTheSame) {
  journal_.FailAppends([](const Migration& record) {
    return IsTerminal(record.state) ? MemoryJournal::Full() : absl::OkStatus();
  });
  const Migration done = AwaitEnd(MustCreate(Request(AddVm("db"))));
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_EQ(done.journal_failure.reason, reason::kJournalFull);
  EXPECT_EQ(*registry_->Get(done.id), done);
  EXPECT_EQ(ListAll(), std::vector<Migration>{done});
}

TEST_F(RegistryTest, AFinishedMigrationIsReadFromTheJournalAndItsErrorsAreReported) {
  const Migration done = AwaitEnd(MustCreate(Request(AddVm("db"))));
  const size_t before = journal_.reads();
  EXPECT_EQ(*registry_->Get(done.id), done);
  EXPECT_EQ(journal_.reads(), before + 1);
  journal_.FailReads(MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt, "damaged"));
  EXPECT_EQ(ReasonOf(registry_->Get(done.id).status()), reason::kJournalCorrupt);
  bool more = false;
  EXPECT_EQ(ReasonOf(registry_->List({}, 10, "", &more).status()), reason::kJournalCorrupt);
}

Migration InFlight(uint64_t number, Step step, MigrationState state, GuestOwner owner,
                   const std::string& boot_id = kBoot) {
  Migration record;
  record.id = absl::StrCat("m-", number);
  record.request.vm_id = absl::StrCat("vm-", number);
  record.revision = 5;
  record.step = step;
  record.state = state;
  record.owner = owner;
  record.boot_id = boot_id;
  return record;
}

TEST_F(RegistryTest, WhatWasInFlightWhenTheDaemonEndedIsClosedHonestly) {
  const Migration records[] = {
      InFlight(1, Step::kQueued, MigrationState::kPending, GuestOwner::kSource),
      InFlight(2, Step::kArming, MigrationState::kPreparing, GuestOwner::kSource),
      InFlight(3, Step::kHandingOver, MigrationState::kHandingOver, GuestOwner::kUndecided),
      InFlight(4, Step::kFencing, MigrationState::kCompleting, GuestOwner::kTarget),
      InFlight(5, Step::kFencing, MigrationState::kCompleting, GuestOwner::kTarget, "old-boot"),
  };
  for (const Migration& record : records) ASSERT_TRUE(journal_.Append(record).ok());
  Start();
  const struct {
    MigrationState state;
    GuestOwner owner;
    std::string_view reason;
  } expected[] = {
      {MigrationState::kFailed, GuestOwner::kSource, reason::kDaemonRestarted},
      {MigrationState::kFailed, GuestOwner::kSource, reason::kDaemonRestarted},
      {MigrationState::kIndeterminate, GuestOwner::kUndecided, reason::kDaemonRestarted},
      {MigrationState::kIndeterminate, GuestOwner::kTarget, reason::kDaemonRestarted},
      {MigrationState::kFailed, GuestOwner::kNobody, reason::kHostRebooted},
  };
  for (size_t i = 0; i < std::size(expected); ++i) {
    SCOPED_TRACE(records[i].id);
    const auto closed = registry_->Get(records[i].id);
    ASSERT_TRUE(closed.ok()) << closed.status();
    EXPECT_EQ(closed->state, expected[i].state);
    EXPECT_EQ(closed->owner, expected[i].owner);
    EXPECT_EQ(closed->failure.reason, expected[i].reason);
    EXPECT_GT(closed->end_time_unix_ns, 0);
    EXPECT_EQ(journal_.Appended(records[i].id).back(), *closed);
  }
  EXPECT_EQ(ListAll().front().id, "m-5") << "in the order in which they were admitted";
  EXPECT_EQ(effects_.created(), 0u);
  EXPECT_EQ(AwaitEnd(MustCreate(Request(AddVm("vm-3")))).state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, ADaemonStartsAlsoWhenItsJournalIsFull) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kHandingOver, MigrationState::kHandingOver,
                                   GuestOwner::kUndecided))
                  .ok());
  journal_.FailAppends([](const Migration&) { return MemoryJournal::Full(); });
  Start();
  EXPECT_EQ(registry_->Get("m-1")->state, MigrationState::kIndeterminate);
  EXPECT_EQ(registry_->Get("m-1")->journal_failure.reason, reason::kJournalFull);
}

TEST_F(RegistryTest, ADamagedJournalKeepsTheRegistryFromStarting) {
  journal_.FailReads(MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt, "damaged"));
  Registry::Options options;
  options.boot_id = kBoot;
  const auto registry = Registry::Create(std::move(options), &journal_, &vms_, &effects_);
  EXPECT_EQ(ReasonOf(registry.status()), reason::kJournalCorrupt);
}

size_t Threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

TEST_F(RegistryTest, ThreadsComeWithTheWorkAndNotBefore) {
  const size_t idle = Threads();
  AddVm("db");
  for (int i = 0; i < 5; ++i) AwaitEnd(MustCreate(Request("db")));
  // One worker and the timer; a second worker if a migration came before the first was back.
  EXPECT_GE(Threads(), idle + 2);
  EXPECT_LE(Threads(), idle + 3);
}

TEST_F(RegistryTest, MigrationsOfSeveralVmsRunAtOnceUpToTheLimit) {
  Registry::Options options;
  options.concurrent = 3;
  Start(std::move(options));
  effects_.HoldAt(Effect::kArm);
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i)
    ids.push_back(MustCreate(Request(AddVm(absl::StrCat("vm-", i), i + 1))));
  effects_.AwaitHeld(Effect::kArm, 3);
  EXPECT_EQ(effects_.created(), 3u);
  effects_.Release(Effect::kArm);
  for (const std::string& id : ids) EXPECT_EQ(AwaitEnd(id).state, MigrationState::kSucceeded);
}

// Callers, cancellers, watchers and listers at once. Afterwards every migration has ended, and at
// no time were two of one VM under way.
TEST_F(RegistryTest, AMixOfCallersLeavesEveryMigrationEndedAndEveryVmFree) {
  constexpr int kVms = 4, kCallers = 6, kRounds = 40;
  std::mutex mutex;
  std::set<std::string> handing_over;
  effects_.On(Effect::kHandOver, [&](const Migration& record, ::rehome::Interrupt& interrupt) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      EXPECT_TRUE(handing_over.insert(record.request.vm_id).second);
    }
    std::this_thread::yield();
    std::lock_guard<std::mutex> lock(mutex);
    handing_over.erase(record.request.vm_id);
    return interrupt.raised() ? FailureOutcome(Event::kVerdictAborted, reason::kInterrupted, record)
                              : HappyOutcome(Effect::kHandOver, record);
  });
  for (int i = 0; i < kVms; ++i) AddVm(absl::StrCat("vm-", i), i + 1);
  std::atomic<int> admitted = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        const auto migration =
            registry_->Create(Request(absl::StrCat("vm-", (caller + round) % kVms)));
        if (!migration.ok()) {
          EXPECT_EQ(ReasonOf(migration.status()), reason::kMigrationInProgress);
          continue;
        }
        ++admitted;
        if (round % 3 == 0) registry_->Cancel(migration->id).status().IgnoreError();
        bool more = false;
        EXPECT_TRUE(registry_->List({}, 10, "", &more).ok());
        if (round % 2 == 0) AwaitEnd(migration->id);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  registry_->Stop();
  const std::vector<Migration> all = ListAll();
  EXPECT_EQ(all.size(), static_cast<size_t>(admitted));
  for (const Migration& record : all) EXPECT_TRUE(IsTerminal(record.state)) << record.id;
  for (const VmEntry& vm : vms_.List()) EXPECT_EQ(vm.active_migration, "");
  EXPECT_EQ(effects_.alive(), 0u);
}

}  // namespace
}  // namespace rehome
