// SPDX-License-Identifier: Apache-2.0
//
// The registry and its journal: failures, and what a restart finds.
#include <gtest/gtest.h>

#include <iterator>
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

}  // namespace
}  // namespace rehome
