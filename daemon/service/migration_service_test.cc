// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/migration_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "daemon/service/testing/migration_caller.h"
#include "daemon/service/testing/test_daemon.h"

namespace rehome {
namespace {

using testing::DetailsOf;
using testing::ErrorDetails;
using ::testing::HasSubstr;
using testing::MigrationCaller;
using testing::TestDaemon;

class MigrationServiceTest : public ::testing::Test {
 protected:
  MigrationServiceTest() : caller_(daemon_) {}

  TestDaemon daemon_;
  MigrationCaller caller_;
};

TEST_F(MigrationServiceTest, CreateAnswersAtOnceAndTheWorkGoesOn) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kRunPreflight);
  const v1::Migration started = caller_.MustCreate(MigrationCaller::RequestFor("web-1"));
  EXPECT_TRUE(started.name().starts_with("migrations/m-"));
  EXPECT_EQ(started.vm(), "virtualMachines/web-1");
  EXPECT_EQ(started.state(), v1::Migration::PENDING);
  EXPECT_EQ(started.guest_owner(), v1::Migration::SOURCE);
  EXPECT_EQ(started.requested_by(),
            "uid=" + std::to_string(geteuid()) + " pid=" + std::to_string(getpid()));
  daemon_.effects().Release(Effect::kRunPreflight);
  const v1::Migration done = caller_.AwaitEnd(started.name());
  EXPECT_EQ(done.state(), v1::Migration::SUCCEEDED);
  EXPECT_EQ(done.guest_owner(), v1::Migration::TARGET);
  EXPECT_TRUE(done.fence_proof().complete());
}

TEST_F(MigrationServiceTest, EveryWrongFieldIsNamed) {
  v1::CreateMigrationRequest request;
  request.set_vm("web-1");
  request.set_request_id("no spaces");
  request.mutable_handover_timeout()->set_seconds(-1);
  request.mutable_deadline()->set_seconds(1'000'000'000'000);
  request.set_fence_policy(static_cast<v1::Migration::FencePolicy>(99));
  v1::Migration migration;
  const grpc::Status status = caller_.Create(request, &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.info.reason(), "BAD_FIELD");
  EXPECT_EQ(details.info.domain(), "rehome");
  std::set<std::string> fields;
  for (const auto& violation : details.bad_request.field_violations()) {
    fields.insert(violation.field());
    EXPECT_THAT(status.error_message(), HasSubstr(violation.description()));
  }
  EXPECT_EQ(fields, (std::set<std::string>{"vm", "target_profile", "request_id", "handover_timeout",
                                           "deadline", "fence_policy"}));
}

TEST_F(MigrationServiceTest, UnknownVmIsNamedAsAResource) {
  v1::Migration migration;
  const grpc::Status status = caller_.Create(MigrationCaller::RequestFor("nobody"), &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  const ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.info.reason(), "VM_NOT_FOUND");
  EXPECT_EQ(details.info.metadata().at("vm"), "nobody");
  EXPECT_EQ(details.resource.resource_type(), "rehome.v1.VirtualMachine");
  EXPECT_EQ(details.resource.resource_name(), "virtualMachines/nobody");
}

TEST_F(MigrationServiceTest, UnknownProfileIsNamedAsAResource) {
  daemon_.AddVm("web-1");
  v1::CreateMigrationRequest request = MigrationCaller::RequestFor("web-1");
  request.set_target_profile("vmm-99");
  v1::Migration migration;
  const grpc::Status status = caller_.Create(request, &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(status).info.reason(), "PROFILE_NOT_FOUND");
  EXPECT_EQ(DetailsOf(status).resource.resource_name(), "vmm-99");
}

TEST_F(MigrationServiceTest, SecondMigrationOfAVmIsAbortedAndToldOfTheFirst) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kRunPreflight);
  const v1::Migration first = caller_.MustCreate(MigrationCaller::RequestFor("web-1"));
  v1::Migration second;
  const grpc::Status status = caller_.Create(MigrationCaller::RequestFor("web-1"), &second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  const ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.info.reason(), "MIGRATION_IN_PROGRESS");
  EXPECT_EQ(details.resource.resource_type(), "rehome.v1.Migration");
  EXPECT_EQ(details.resource.resource_name(), first.name());
  EXPECT_GT(details.retry.retry_delay().seconds(), 0);
  daemon_.effects().Release(Effect::kRunPreflight);
  caller_.AwaitEnd(first.name());
}

TEST_F(MigrationServiceTest, WhileAnEarlierDaemonsMigrationsAreSettledOneIsToldToComeBack) {
  Migration earlier;
  earlier.id = "m-00000000000000aa";
  earlier.request.vm_id = "web-9";
  earlier.revision = 7;
  earlier.state = MigrationState::kHandingOver;
  earlier.step = Step::kHandingOver;
  earlier.owner = GuestOwner::kUndecided;
  earlier.boot_id = "this-boot";
  TestDaemon recovering({.earlier = {earlier}});
  recovering.AddVm("web-1");
  MigrationCaller caller(recovering);
  v1::Migration migration;
  const grpc::Status status = caller.Create(MigrationCaller::RequestFor("web-1"), &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).info.reason(), "RECOVERING");
  EXPECT_GT(DetailsOf(status).retry.retry_delay().seconds(), 0);
}

// A guest of which nobody knows where it is; `found` is what a resolve finds out.
class ResolveTest : public MigrationServiceTest {
 protected:
  ResolveTest() {
    const auto unreachable = [](const Migration& record, Interrupt&) {
      return FailureOutcome(Event::kUnreachable, "OWNER_UNKNOWN", record);
    };
    daemon_.AddVm("web-1");
    daemon_.effects().On(Effect::kHandOver, [](const Migration& record, Interrupt&) {
      return FailureOutcome(Event::kStuck, "HANDOVER_STUCK", record);
    });
    daemon_.effects().On(Effect::kAbort, unreachable);
    daemon_.effects().On(Effect::kRecover, unreachable);
    unknown_ = caller_.AwaitEnd(caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name());
  }

  grpc::Status Resolve(const std::string& name, v1::Migration* migration) {
    grpc::ClientContext context;
    v1::ResolveMigrationRequest request;
    request.set_name(name);
    return caller_.stub().ResolveMigration(&context, request, migration);
  }

  v1::Migration unknown_;
};

TEST_F(ResolveTest, AnIndeterminateMigrationLetsNoOtherInAndIsNamed) {
  EXPECT_EQ(unknown_.state(), v1::Migration::INDETERMINATE);
  v1::Migration migration;
  const grpc::Status status = caller_.Create(MigrationCaller::RequestFor("web-1"), &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "MIGRATION_UNRESOLVED");
  EXPECT_EQ(DetailsOf(status).resource.resource_name(), unknown_.name());
}

TEST_F(ResolveTest, GoesOnFromWhatIsFoundAndANewWatchStartsWithASnapshot) {
  daemon_.effects().On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kVerdictRunning, {}, record};
  });
  daemon_.effects().HoldAt(Effect::kRecover);
  v1::Migration again;
  ASSERT_TRUE(Resolve(unknown_.name(), &again).ok());
  EXPECT_GT(again.revision(), unknown_.revision());
  EXPECT_NE(again.state(), v1::Migration::INDETERMINATE);
  daemon_.effects().AwaitHeld(Effect::kRecover);

  grpc::ClientContext context;
  v1::WatchMigrationRequest request;
  request.set_name(unknown_.name());
  const auto stream = caller_.stub().WatchMigration(&context, request);
  v1::WatchMigrationResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.migration().state(), again.state());
  EXPECT_FALSE(response.migration().has_end_time());
  daemon_.effects().Release(Effect::kRecover);
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(response.migration().state(), v1::Migration::SUCCEEDED);
}

TEST_F(ResolveTest, WhatIsStillUnknownIsIndeterminateAgain) {
  v1::Migration again;
  ASSERT_TRUE(Resolve(unknown_.name(), &again).ok());
  const v1::Migration last = caller_.AwaitEnd(unknown_.name());
  EXPECT_EQ(last.state(), v1::Migration::INDETERMINATE);
  EXPECT_GT(last.revision(), again.revision());
}

TEST_F(ResolveTest, RefusesWhatIsNotIndeterminate) {
  v1::Migration migration;
  daemon_.AddVm("web-2");
  daemon_.effects().HoldAt(Effect::kRunPreflight);
  const std::string name = caller_.MustCreate(MigrationCaller::RequestFor("web-2")).name();
  const grpc::Status status = Resolve(name, &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "NOT_INDETERMINATE");
  EXPECT_EQ(DetailsOf(status).resource.resource_name(), name);
  daemon_.effects().Release(Effect::kRunPreflight);
  EXPECT_EQ(DetailsOf(Resolve("migrations/m-0", &migration)).info.reason(), "MIGRATION_NOT_FOUND");
  EXPECT_EQ(DetailsOf(Resolve("m-0", &migration)).info.reason(), "BAD_NAME");
  caller_.AwaitEnd(name);
}

TEST_F(MigrationServiceTest, SameRequestIdFromAnotherConnectionIsTheSameMigration) {
  daemon_.AddVm("web-1");
  v1::CreateMigrationRequest request = MigrationCaller::RequestFor("web-1");
  request.set_request_id("f81d4fae-7dec-4d0e-a765-00a0c91e6bf6");
  const v1::Migration first = caller_.MustCreate(request);
  caller_.AwaitEnd(first.name());
  MigrationCaller other(daemon_);
  const v1::Migration again = other.MustCreate(request);
  EXPECT_EQ(again.name(), first.name());
  EXPECT_EQ(again.state(), v1::Migration::SUCCEEDED) << "as it is now";
}

TEST_F(MigrationServiceTest, SameRequestIdWithOtherParametersIsRefused) {
  daemon_.AddVm("web-1");
  daemon_.AddVm("web-2");
  v1::CreateMigrationRequest request = MigrationCaller::RequestFor("web-1");
  request.set_request_id("mine");
  caller_.AwaitEnd(caller_.MustCreate(request).name());
  request.set_vm("virtualMachines/web-2");
  v1::Migration migration;
  const grpc::Status status = caller_.Create(request, &migration);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).info.reason(), "REQUEST_ID_REUSED");
}

TEST_F(MigrationServiceTest, ValidateOnlyRecordsNothingAndListsTheBlockers) {
  daemon_.AddVm("web-1");
  daemon_.effects().On(Effect::kRunPreflight, [](const Migration& record, Interrupt&) {
    Outcome outcome = FailureOutcome(Event::kRefused, "STRATEGY_UNSUPPORTED", record);
    outcome.update.preflight = {
        {"source_registered", PreflightCheck::Result::kPassed, "", ""},
        {"strategy_supported", PreflightCheck::Result::kFailed, "STRATEGY_UNSUPPORTED", "no LINK"},
        {"target_reads_format", PreflightCheck::Result::kFailed, "FORMAT_UNREADABLE", "writes 3"}};
    return outcome;
  });
  v1::CreateMigrationRequest request = MigrationCaller::RequestFor("web-1");
  request.set_validate_only(true);
  const v1::Migration checked = caller_.MustCreate(request);
  EXPECT_EQ(checked.name(), "");
  EXPECT_EQ(checked.state(), v1::Migration::FAILED);
  EXPECT_EQ(checked.preflight_checks_size(), 3);
  EXPECT_EQ(checked.error().code(), grpc::StatusCode::FAILED_PRECONDITION);
  const ErrorDetails details = DetailsOf(checked.error());
  EXPECT_EQ(details.info.reason(), "STRATEGY_UNSUPPORTED");
  ASSERT_EQ(details.preconditions.violations_size(), 2);
  EXPECT_EQ(details.preconditions.violations(1).type(), "FORMAT_UNREADABLE");
  EXPECT_EQ(details.preconditions.violations(1).subject(), "target_reads_format");
  v1::ListMigrationsResponse all;
  ASSERT_TRUE(caller_.List("", 0, "", &all).ok());
  EXPECT_TRUE(all.migrations().empty());
}

TEST_F(MigrationServiceTest, GetTellsAnUnknownMigrationFromABadName) {
  v1::GetMigrationRequest request;
  v1::Migration migration;
  request.set_name("migrations/m-0000000000000000");
  grpc::ClientContext first;
  const grpc::Status unknown = caller_.stub().GetMigration(&first, request, &migration);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).info.reason(), "MIGRATION_NOT_FOUND");
  EXPECT_EQ(DetailsOf(unknown).resource.resource_name(), request.name());
  request.set_name("m-0000000000000000");
  grpc::ClientContext second;
  const grpc::Status bad = caller_.stub().GetMigration(&second, request, &migration);
  EXPECT_EQ(bad.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(bad).info.reason(), "BAD_NAME");
  EXPECT_EQ(DetailsOf(bad).bad_request.field_violations(0).field(), "name");
}

TEST_F(MigrationServiceTest, PagesLeadThroughAllMigrationsOnce) {
  daemon_.AddVm("web-1");
  std::vector<std::string> names;
  for (int i = 0; i < 7; ++i) {
    names.push_back(caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name());
    caller_.AwaitEnd(names.back());
  }
  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    v1::ListMigrationsResponse page;
    ASSERT_TRUE(caller_.List("vm = web-1", 3, token, &page).ok());
    ASSERT_LE(page.migrations_size(), 3);
    for (const auto& migration : page.migrations()) listed.push_back(migration.name());
    token = page.next_page_token();
    ASSERT_LE(++pages, 3);
  } while (!token.empty());
  EXPECT_EQ(listed, std::vector<std::string>(names.rbegin(), names.rend())) << "newest first";
}

TEST_F(MigrationServiceTest, PageTokenBelongsToItsFilter) {
  daemon_.AddVm("web-1");
  for (int i = 0; i < 2; ++i)
    caller_.AwaitEnd(caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name());
  v1::ListMigrationsResponse page;
  ASSERT_TRUE(caller_.List("vm = web-1", 1, "", &page).ok());
  ASSERT_NE(page.next_page_token(), "");
  v1::ListMigrationsResponse ignored;
  const grpc::Status other = caller_.List("state = FAILED", 1, page.next_page_token(), &ignored);
  EXPECT_EQ(DetailsOf(other).info.reason(), "BAD_PAGE_TOKEN");
  const grpc::Status garbage = caller_.List("", 1, "garbage", &ignored);
  EXPECT_EQ(DetailsOf(garbage).info.reason(), "BAD_PAGE_TOKEN");
  const grpc::Status negative = caller_.List("", -1, "", &ignored);
  EXPECT_EQ(DetailsOf(negative).info.reason(), "BAD_PAGE_SIZE");
}

TEST_F(MigrationServiceTest, FilterSelectsByVmAndState) {
  daemon_.AddVm("web-1");
  daemon_.AddVm("web-2");
  caller_.AwaitEnd(caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name());
  daemon_.effects().On(Effect::kArm, [](const Migration& record, Interrupt&) {
    return FailureOutcome(Event::kRefused, "AGENT_REFUSED_BUSY", record);
  });
  const std::string failed = caller_.MustCreate(MigrationCaller::RequestFor("web-2")).name();
  caller_.AwaitEnd(failed);
  v1::ListMigrationsResponse found;
  ASSERT_TRUE(
      caller_.List(R"(vm = "virtualMachines/web-2" AND state = FAILED)", 0, "", &found).ok());
  ASSERT_EQ(found.migrations_size(), 1);
  EXPECT_EQ(found.migrations(0).name(), failed);
  EXPECT_EQ(DetailsOf(found.migrations(0).error()).info.reason(), "AGENT_REFUSED_BUSY");
}

TEST_F(MigrationServiceTest, UnknownFilterFieldIsNamed) {
  v1::ListMigrationsResponse ignored;
  const grpc::Status status = caller_.List("colour = blue", 0, "", &ignored);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).info.reason(), "BAD_FILTER");
  EXPECT_THAT(status.error_message(), HasSubstr("unknown field 'colour'"));
}

TEST_F(MigrationServiceTest, CancelStopsAMigrationThatHasNotHandedOver) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kLaunchTarget);
  const std::string name = caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name();
  daemon_.effects().AwaitHeld(Effect::kLaunchTarget);
  v1::CancelMigrationRequest request;
  request.set_name(name);
  v1::Migration cancelled;
  grpc::ClientContext first;
  ASSERT_TRUE(caller_.stub().CancelMigration(&first, request, &cancelled).ok());
  const v1::Migration done = caller_.AwaitEnd(name);
  EXPECT_EQ(done.state(), v1::Migration::CANCELLED);
  EXPECT_EQ(done.guest_owner(), v1::Migration::SOURCE);
  EXPECT_EQ(done.error().code(), grpc::StatusCode::CANCELLED);

  grpc::ClientContext second;
  const grpc::Status again = caller_.stub().CancelMigration(&second, request, &cancelled);
  EXPECT_EQ(again.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(again).info.reason(), "ALREADY_FINISHED");
  EXPECT_EQ(DetailsOf(again).resource.resource_name(), name);
}

TEST_F(MigrationServiceTest, CancelAfterTheHandOverIsTooLate) {
  daemon_.AddVm("web-1");
  daemon_.effects().HoldAt(Effect::kAwaitFirstRun, /*interruptible=*/false);
  const std::string name = caller_.MustCreate(MigrationCaller::RequestFor("web-1")).name();
  daemon_.effects().AwaitHeld(Effect::kAwaitFirstRun);
  v1::CancelMigrationRequest request;
  request.set_name(name);
  v1::Migration ignored;
  grpc::ClientContext context;
  const grpc::Status status = caller_.stub().CancelMigration(&context, request, &ignored);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).info.reason(), "PAST_COMMIT");
  daemon_.effects().Release(Effect::kAwaitFirstRun);
  EXPECT_EQ(caller_.AwaitEnd(name).state(), v1::Migration::SUCCEEDED);
}

}  // namespace
}  // namespace rehome
