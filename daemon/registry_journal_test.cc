// SPDX-License-Identifier: Apache-2.0
//
// The registry and its journal: failures, and what a restart finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/registry.h"
#include "daemon/testing/registry_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

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

TEST_F(RegistryTest, EffectsEndOnceTheTerminalRecordIsJournalledAndBeforeItIsShown) {
  bool journalled = false, shown = false;
  effects_.OnEnd([&](const Migration& last) {
    const auto record = journal_.Read(last.id);
    journalled = record.ok() && IsTerminal(record->state);
    shown = IsTerminal(registry_->Get(last.id)->state);
  });
  AwaitEnd(MustCreate(Request(AddVm("db"))));
  EXPECT_TRUE(journalled);
  EXPECT_FALSE(shown);
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

TEST_F(RegistryTest, WhatAnEarlierDaemonLeftIsTakenOverAndDrivenToItsEnd) {
  const Migration records[] = {
      InFlight(1, Step::kQueued, MigrationState::kPending, GuestOwner::kSource),
      InFlight(2, Step::kArming, MigrationState::kPreparing, GuestOwner::kSource),
      InFlight(3, Step::kHandingOver, MigrationState::kHandingOver, GuestOwner::kUndecided),
      InFlight(4, Step::kFencing, MigrationState::kCompleting, GuestOwner::kTarget),
      InFlight(5, Step::kFencing, MigrationState::kCompleting, GuestOwner::kTarget, "old-boot"),
  };
  for (const Migration& record : records) ASSERT_TRUE(journal_.Append(record).ok());
  // What is found: the guest of m-2 is where it was, that of m-3 runs on the target.
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    const bool handed_over = record.id == "m-3";
    return Outcome{handed_over ? Event::kVerdictRunning : Event::kSourceResumed, {}, record};
  });
  Start();
  EXPECT_EQ(effects_.created(), 0u) << "nothing is done before agents can connect";
  ASSERT_TRUE(registry_->StartRecovery().ok());
  EXPECT_TRUE(registry_->AwaitRecovered());
  const struct {
    MigrationState state;
    GuestOwner owner;
    std::string_view reason;
  } expected[] = {
      {MigrationState::kFailed, GuestOwner::kSource, reason::kDaemonRestarted},
      {MigrationState::kFailed, GuestOwner::kSource, reason::kDaemonRestarted},
      {MigrationState::kSucceeded, GuestOwner::kTarget, ""},
      {MigrationState::kSucceeded, GuestOwner::kTarget, ""},
      {MigrationState::kFailed, GuestOwner::kNobody, reason::kHostRebooted},
  };
  for (size_t i = 0; i < std::size(expected); ++i) {
    SCOPED_TRACE(records[i].id);
    const Migration closed = AwaitEnd(records[i].id);
    EXPECT_EQ(closed.state, expected[i].state);
    EXPECT_EQ(closed.owner, expected[i].owner);
    EXPECT_EQ(closed.failure.reason, expected[i].reason);
    EXPECT_GT(closed.end_time_unix_ns, 0);
    EXPECT_EQ(journal_.Appended(records[i].id).back(), closed);
  }
  EXPECT_EQ(ListAll().front().id, "m-5") << "in the order in which they were admitted";
  EXPECT_EQ(effects_.alive(), 0u);
  EXPECT_EQ(AwaitEnd(MustCreate(Request(AddVm("vm-3")))).state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, NothingIsAdmittedUntilItIsKnownHowThingsStand) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kHandingOver, MigrationState::kHandingOver,
                                   GuestOwner::kUndecided))
                  .ok());
  effects_.HoldAt(Effect::kRecover, /*interruptible=*/false);
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kSourceResumed, {}, record};
  });
  Start();
  AddVm("other");
  EXPECT_EQ(CreateError(Request("other")), reason::kRecovering);
  ASSERT_TRUE(registry_->StartRecovery().ok());
  effects_.AwaitHeld(Effect::kRecover);
  EXPECT_FALSE(registry_->IsRecovered());
  EXPECT_EQ(CreateError(Request("other")), reason::kRecovering);
  EXPECT_EQ(registry_->Unfinished(), std::set<std::string>{"m-1"});
  effects_.Release(Effect::kRecover);
  EXPECT_TRUE(registry_->AwaitRecovered());
  EXPECT_EQ(AwaitEnd(MustCreate(Request("other"))).state, MigrationState::kSucceeded);
}

TEST_F(RegistryTest, AResolveOfWhatIsBeingRecoveredIsRefusedAndDoesNotStartItTwice) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kUnresolved, MigrationState::kIndeterminate,
                                   GuestOwner::kUndecided))
                  .ok());
  effects_.HoldAt(Effect::kRecover, /*interruptible=*/false);
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kSourceResumed, {}, record};
  });
  Start();
  EXPECT_EQ(ReasonOf(registry_->Resolve("m-1").status()), reason::kRecovering) << "not begun";
  ASSERT_TRUE(registry_->StartRecovery().ok());
  effects_.AwaitHeld(Effect::kRecover);
  const absl::Status refused = registry_->Resolve("m-1").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), reason::kRecovering);
  effects_.Release(Effect::kRecover);
  EXPECT_EQ(AwaitEnd("m-1").state, MigrationState::kFailed);
  const std::vector<Effect> performed = effects_.PerformedBy("m-1");
  EXPECT_EQ(std::count(performed.begin(), performed.end(), Effect::kRecover), 1);
}

// It waits for a thread of the registry: a caller has no time to look for processes.
TEST_F(RegistryTest, ACancelOfWhatIsBeingRecoveredDoesNotDriveItAndChangesNothingOfWhatIsFound) {
  for (const Migration& record :
       {InFlight(1, Step::kArming, MigrationState::kPreparing, GuestOwner::kSource),
        InFlight(2, Step::kQueued, MigrationState::kPending, GuestOwner::kSource)}) {
    ASSERT_TRUE(journal_.Append(record).ok());
  }
  effects_.HoldAt(Effect::kRecover, /*interruptible=*/false);
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kSourceResumed, {}, record};
  });
  Registry::Options one_thread;
  one_thread.concurrent = 1;
  Start(std::move(one_thread));
  EXPECT_TRUE(registry_->Cancel("m-1").ok()) << "not begun";
  ASSERT_TRUE(registry_->StartRecovery().ok());
  effects_.AwaitHeld(Effect::kRecover);
  for (const char* id : {"m-1", "m-2"}) {
    const auto cancelled = registry_->Cancel(id);
    ASSERT_TRUE(cancelled.ok()) << cancelled.status();
    EXPECT_FALSE(IsTerminal(cancelled->state));
  }
  EXPECT_EQ(effects_.created(), 1u) << "the one that waits was not begun by its cancel";
  EXPECT_FALSE(registry_->IsRecovered());
  effects_.Release(Effect::kRecover);
  EXPECT_TRUE(registry_->AwaitRecovered());
  for (const char* id : {"m-1", "m-2"}) {
    const Migration done = AwaitEnd(id);
    EXPECT_EQ(done.state, MigrationState::kFailed) << "it was failing already";
    EXPECT_EQ(done.failure.reason, reason::kDaemonRestarted);
    EXPECT_EQ(done.owner, GuestOwner::kSource);
  }
}

// The end of the first was never journalled, or the second would not have been admitted.
TEST_F(RegistryTest, OfTwoUnfinishedRecordsOfOneVmTheLaterIsTakenOverAndTheOtherClosed) {
  Migration first =
      InFlight(1, Step::kHandingOver, MigrationState::kHandingOver, GuestOwner::kUndecided);
  Migration second =
      InFlight(2, Step::kHandingOver, MigrationState::kHandingOver, GuestOwner::kUndecided);
  first.request.vm_id = second.request.vm_id = "db";
  second.source = {20, 1, 0};
  ASSERT_TRUE(journal_.Append(first).ok());
  ASSERT_TRUE(journal_.Append(second).ok());
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kVerdictRunning, {}, record};
  });
  Start();
  EXPECT_EQ(registry_->Unfinished(), std::set<std::string>{"m-2"}) << "the escrow of m-1 may go";
  const Migration closed = *registry_->Get("m-1");
  EXPECT_EQ(closed.state, MigrationState::kFailed);
  EXPECT_EQ(closed.failure.reason, reason::kJournalFailed);
  EXPECT_EQ(closed.revision, first.revision + 1);
  EXPECT_EQ(journal_.Appended("m-1").back(), closed);
  VmEntry vm;
  vm.vm_id = "db";
  vm.process = second.source;
  EXPECT_TRUE(vms_.Register(vm, "", std::make_shared<FakeVmmLink>(vm.process)).ok());
  ASSERT_TRUE(registry_->StartRecovery().ok());
  EXPECT_TRUE(registry_->AwaitRecovered());
  EXPECT_EQ(AwaitEnd("m-2").state, MigrationState::kSucceeded);
  EXPECT_TRUE(effects_.PerformedBy("m-1").empty()) << "nothing is done for it";
}

TEST_F(RegistryTest, TheVmOfAMigrationThatWasTakenOverIsReservedForItsTwoSides) {
  Migration record = InFlight(1, Step::kFencing, MigrationState::kCompleting, GuestOwner::kTarget);
  record.source = {10, 1, 0};
  ASSERT_TRUE(journal_.Append(record).ok());
  Start();
  VmEntry vm;
  vm.vm_id = "vm-1";
  vm.process = {99, 1, 0};
  const auto link = std::make_shared<FakeVmmLink>(vm.process);
  EXPECT_EQ(ReasonOf(vms_.Register(vm, "", link)), reason::kVmIdTaken);
  EXPECT_TRUE(vms_.Register(vm, "m-1", link).ok()) << "the target";
  vm.process = record.source;
  EXPECT_TRUE(vms_.Register(vm, "", std::make_shared<FakeVmmLink>(vm.process)).ok());
}

TEST_F(RegistryTest, AnIndeterminateOneKeepsItsEscrowAndItsVmUntilItIsResolved) {
  const auto unreachable = [](const Migration& record, Interrupt&) {
    return FailureOutcome(Event::kUnreachable, "OWNER_UNKNOWN", record);
  };
  effects_.On(Effect::kHandOver, [](const Migration& record, Interrupt&) {
    return FailureOutcome(Event::kStuck, "HANDOVER_STUCK", record);
  });
  effects_.On(Effect::kAbort, unreachable);
  effects_.On(Effect::kRecover, unreachable);
  const Migration unknown = AwaitEnd(MustCreate(Request(AddVm("db"))));
  EXPECT_EQ(unknown.state, MigrationState::kIndeterminate);
  EXPECT_EQ(effects_.alive(), 1u);
  EXPECT_EQ(CreateError(Request("db")), reason::kMigrationUnresolved);
  EXPECT_EQ(ReasonOf(registry_->Cancel(unknown.id).status()), reason::kAlreadyFinished);

  // Still unknown.
  const auto resolving = registry_->Resolve(unknown.id);
  ASSERT_TRUE(resolving.ok()) << resolving.status();
  EXPECT_FALSE(IsTerminal(resolving->state));
  EXPECT_EQ(AwaitEnd(unknown.id).state, MigrationState::kIndeterminate);
  EXPECT_EQ(effects_.created(), 1u) << "the same escrow";

  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kVerdictRunning, {}, record};
  });
  ASSERT_TRUE(registry_->Resolve(unknown.id).ok());
  const Migration done = AwaitEnd(unknown.id);
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_EQ(effects_.alive(), 0u);
  EXPECT_EQ(ReasonOf(registry_->Resolve(unknown.id).status()), reason::kNotIndeterminate);
  EXPECT_EQ(ReasonOf(registry_->Resolve("m-0").status()), reason::kMigrationNotFound);
}

TEST_F(RegistryTest, AnIndeterminateOneIsProbedAgainByTheNextDaemon) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kUnresolved, MigrationState::kIndeterminate,
                                   GuestOwner::kUndecided))
                  .ok());
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kSourceResumed, {}, record};
  });
  Start();
  ASSERT_TRUE(registry_->StartRecovery().ok());
  EXPECT_TRUE(registry_->AwaitRecovered());
  const Migration done = AwaitEnd("m-1");
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.owner, GuestOwner::kSource);
}

TEST_F(RegistryTest, AStopDoesNotWaitForWhatIsIndeterminate) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kUnresolved, MigrationState::kIndeterminate,
                                   GuestOwner::kUndecided))
                  .ok());
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return FailureOutcome(Event::kUnreachable, "OWNER_UNKNOWN", record);
  });
  Start();
  ASSERT_TRUE(registry_->StartRecovery().ok());
  EXPECT_TRUE(registry_->AwaitRecovered());
  EXPECT_EQ(AwaitEnd("m-1").state, MigrationState::kIndeterminate);
  registry_->Stop();
}

TEST_F(RegistryTest, ADaemonStartsAlsoWhenItsJournalIsFull) {
  ASSERT_TRUE(journal_
                  .Append(InFlight(1, Step::kHandingOver, MigrationState::kHandingOver,
                                   GuestOwner::kUndecided))
                  .ok());
  journal_.FailAppends([](const Migration&) { return MemoryJournal::Full(); });
  effects_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kSourceResumed, {}, record};
  });
  Start();
  ASSERT_TRUE(registry_->StartRecovery().ok());
  EXPECT_TRUE(registry_->AwaitRecovered());
  const Migration done = AwaitEnd("m-1");
  EXPECT_EQ(done.owner, GuestOwner::kSource);
  EXPECT_EQ(done.journal_failure.reason, reason::kJournalFull);
}

TEST_F(RegistryTest, ADamagedJournalKeepsTheRegistryFromStarting) {
  journal_.FailReads(MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt, "damaged"));
  Registry::Options options;
  options.boot_id = kBoot;
  const auto registry = Registry::Create(std::move(options), &journal_, &vms_, &effects_);
  EXPECT_EQ(ReasonOf(registry.status()), reason::kJournalCorrupt);
}

}  // namespace
}  // namespace rehome
