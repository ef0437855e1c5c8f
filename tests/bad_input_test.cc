// SPDX-License-Identifier: Apache-2.0
//
// What callers, VMMs and operators get wrong: each gets a reason that the documentation lists, the
// guest runs on where it was, and nothing is left behind.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "client/api_error.h"
#include "tests/harness/fake_agent.h"
#include "tests/harness/process.h"
#include "tests/scenario.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using harness::FakeAgent;
using harness::ProfileOfVersion;
using v1::Migration;

class BadRequestTest : public Scenario {
 protected:
  absl::Status Refused(const v1::CreateMigrationRequest& request) {
    return host().client().CreateMigration(request).status();
  }
  void Cancel(const std::string& name) {
    v1::CancelMigrationRequest cancel;
    cancel.set_name(name);
    const auto asked = host().client().CancelMigration(cancel);
    EXPECT_TRUE(asked.ok()) << asked.status();
  }
};

TEST_F(BadRequestTest, AnUnknownVmOrProfileIsNamedAndNothingIsStarted) {
  StartHost({.kernel = "sim"});
  StartGuest();
  const absl::Status vm = Refused(RequestFor(ProfileOfVersion(2), "nobody"));
  EXPECT_EQ(vm.code(), absl::StatusCode::kNotFound) << vm;
  EXPECT_EQ(ApiReasonOf(vm), "VM_NOT_FOUND");
  EXPECT_EQ(DetailsOf(vm).resource.resource_name(), "virtualMachines/nobody");

  const absl::Status profile = Refused(RequestFor("no-such-profile"));
  EXPECT_EQ(profile.code(), absl::StatusCode::kNotFound) << profile;
  EXPECT_EQ(ApiReasonOf(profile), "PROFILE_NOT_FOUND");

  const auto list = host().client().ListMigrations({});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->migrations_size(), 0);
  ExpectStayed(guest());
  ExpectNothingLeft();
}

TEST_F(BadRequestTest, ASecondMigrationOfAVmIsAbortedAndNamesTheFirst) {
  StartHost({.kernel = "sim", .target_arguments = {"--hang-at=prepare"}});
  StartGuest();
  const auto first = host().client().CreateMigration(RequestFor(ProfileOfVersion(2)));
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = Refused(RequestFor(ProfileOfVersion(2)));
  EXPECT_EQ(second.code(), absl::StatusCode::kAborted) << second;
  EXPECT_EQ(ApiReasonOf(second), "MIGRATION_IN_PROGRESS");
  EXPECT_EQ(DetailsOf(second).resource.resource_name(), first->name());
  Cancel(first->name());
  ExpectFailed(Watch(first->name()), guest(), "CANCELLED", Migration::CANCELLED);
}

TEST_F(BadRequestTest, TheSameRequestIdIsTheSameMigrationAndOnlyWithTheSameParameters) {
  StartHost({.kernel = "sim"});
  StartGuest();
  v1::CreateMigrationRequest request = RequestFor(ProfileOfVersion(2));
  request.set_request_id("0f3b7a52-11d0-4a51-9d6e-0d6a2e1f1b11");
  const auto first = host().client().CreateMigration(request);
  ASSERT_TRUE(first.ok()) << first.status();
  ExpectMoved(Watch(first->name()), guest(), {Migration::LINK, Migration::BEFORE_RESUME});

  const auto again = host().client().CreateMigration(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->name(), first->name());
  EXPECT_EQ(again->state(), Migration::SUCCEEDED);

  request.set_fence_policy(Migration::AFTER_RESUME);
  const absl::Status reused = Refused(request);
  EXPECT_EQ(reused.code(), absl::StatusCode::kInvalidArgument) << reused;
  EXPECT_EQ(ApiReasonOf(reused), "REQUEST_ID_REUSED");
  const auto list = host().client().ListMigrations({});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->migrations_size(), 1);
  ExpectStayed(guest());
}

// --- a target that lies about what it built

struct Lie {
  const char* kind;  // of rehome-vmm's --misbehave
  const char* reason;
};

class LyingTargetTest : public Scenario, public testing::WithParamInterface<Lie> {};

TEST_P(LyingTargetTest, IsFoundOutBeforeTheGuestPauses) {
  StartHost({.kernel = "sim", .target_arguments = {std::string("--misbehave=") + GetParam().kind}});
  // Mapped memory: there the daemon is the only one who compares.
  StartGuest({.vcpus = 2, .arguments = {"--memory-kind=memfd"}});
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectFailed(record, guest(), GetParam().reason);
  EXPECT_FALSE(record.guest_paused());
}

INSTANTIATE_TEST_SUITE_P(
    , LyingTargetTest,
    testing::Values(Lie{"vm-type", "VM_TYPE_MISMATCH"}, Lie{"vcpu-count", "VCPU_COUNT_MISMATCH"},
                    Lie{"layout", "LAYOUT_MISMATCH"}, Lie{"overlap", "LAYOUT_INVALID"},
                    Lie{"foreign-inode", "LAYOUT_MISMATCH"},
                    // The library does not send these two; on the wire: BadAgentTest.
                    Lie{"missing-fd", "AGENT_REFUSED_INTERNAL"},
                    Lie{"extra-fd", "AGENT_REFUSED_INTERNAL"},
                    Lie{"wrong-fd", "AGENT_PROTOCOL_VIOLATION"}),
    [](const auto& info) {
      std::string name = info.param.kind;
      for (char& c : name) c = c == '-' ? '_' : c;
      return name;
    });

// --- an agent that breaks the protocol

struct BadAnswer {
  const char* name;
  // What the source's agent does with the daemon's DESCRIBE.
  std::function<void(FakeAgent&, const FakeAgent::Message&)> answer;
  const char* reason;
};

std::vector<std::byte> Zeroes(size_t count) { return std::vector<std::byte>(count); }

// A reply whose header says `said` descriptors, and that carries `sent`.
void AnswerWithFds(FakeAgent& agent, const FakeAgent::Message& asked, uint32_t said, size_t sent) {
  rehome_header header = asked.header;
  header.flags = REHOME_FLAG_REPLY;
  header.payload_size = 0;
  header.fd_count = said;
  const std::vector<BorrowedFd> fds(sent, agent.socket());
  EXPECT_TRUE(agent.SendRaw(std::as_bytes(std::span(&header, 1)), fds).ok());
}

std::vector<BadAnswer> BadAnswers() {
  return {
      {"Garbage",
       [](FakeAgent& agent, const FakeAgent::Message&) {
         const std::vector<std::byte> garbage(256, std::byte{0xa5});
         EXPECT_TRUE(agent.SendRaw(garbage).ok());
       },
       "AGENT_PROTOCOL_VIOLATION"},
      {"LessThanAHeader",
       [](FakeAgent& agent, const FakeAgent::Message& asked) {
         const auto bytes = std::as_bytes(std::span(&asked.header, 1));
         EXPECT_TRUE(agent.SendRaw(bytes.first(bytes.size() / 2)).ok());
       },
       "AGENT_PROTOCOL_VIOLATION"},
      {"Truncated",
       [](FakeAgent& agent, const FakeAgent::Message& asked) {
         EXPECT_TRUE(
             agent.Send(asked.header.type, REHOME_FLAG_REPLY, asked.header.seq, Zeroes(8)).ok());
       },
       "AGENT_PROTOCOL_VIOLATION"},
      {"Oversized",
       [](FakeAgent& agent, const FakeAgent::Message& asked) {
         EXPECT_TRUE(agent
                         .Send(asked.header.type, REHOME_FLAG_REPLY, asked.header.seq,
                               Zeroes(REHOME_MAX_MESSAGE + 1))
                         .ok());
       },
       "AGENT_PROTOCOL_VIOLATION"},
      {"WrongSequenceNumber",
       [](FakeAgent& agent, const FakeAgent::Message& asked) {
         EXPECT_TRUE(
             agent.Send(asked.header.type, REHOME_FLAG_REPLY, asked.header.seq + 1, {}).ok());
       },
       "AGENT_PROTOCOL_VIOLATION"},
      {"FewerDescriptorsThanItSays",
       [](FakeAgent& agent, const FakeAgent::Message& asked) { AnswerWithFds(agent, asked, 1, 0); },
       "AGENT_PROTOCOL_VIOLATION"},
      {"MoreDescriptorsThanItSays",
       [](FakeAgent& agent, const FakeAgent::Message& asked) { AnswerWithFds(agent, asked, 1, 2); },
       "AGENT_PROTOCOL_VIOLATION"},
      {"Nothing", [](FakeAgent&, const FakeAgent::Message&) {}, "AGENT_TIMEOUT"},
  };
}

class BadAgentTest : public Scenario, public testing::WithParamInterface<BadAnswer> {};

TEST_P(BadAgentTest, FailsItsOwnMigrationAndNobodyElses) {
  StartHost({.kernel = "sim"});
  StartGuest();
  absl::StatusOr<FakeAgent> agent = FakeAgent::Connect(host().agent_socket());
  ASSERT_TRUE(agent.ok()) << agent.status();
  ASSERT_TRUE(agent->Register("fake", kPatience).ok());
  ASSERT_TRUE(Eventually([&] { return GetVm("fake").name() != ""; }));

  const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2), "fake"));
  ASSERT_TRUE(created.ok()) << created.status();
  const absl::StatusOr<FakeAgent::Message> asked = agent->Receive(kPatience);
  ASSERT_TRUE(asked.ok()) << asked.status();
  ASSERT_EQ(asked->header.type, REHOME_MSG_DESCRIBE);
  GetParam().answer(*agent, *asked);

  const Migration record = Watch(created->name());
  EXPECT_EQ(record.state(), Migration::FAILED) << record.DebugString();
  EXPECT_EQ(record.guest_owner(), Migration::SOURCE);
  EXPECT_EQ(ReasonIn(record), GetParam().reason) << record.error().DebugString();
  EXPECT_FALSE(record.has_target());
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(2))), guest(),
              {Migration::LINK, Migration::BEFORE_RESUME});
}

INSTANTIATE_TEST_SUITE_P(, BadAgentTest, testing::ValuesIn(BadAnswers()),
                         [](const auto& info) { return std::string(info.param.name); });

class StrangerTest : public Scenario {};

TEST_F(StrangerTest, WhoOpensWithGarbageIsHungUpOnAndTheOthersAreServed) {
  StartHost({.kernel = "sim"});
  StartGuest();
  for (const size_t size : {size_t{1}, size_t{48}, size_t{4096}}) {
    absl::StatusOr<FakeAgent> stranger = FakeAgent::Connect(host().agent_socket());
    ASSERT_TRUE(stranger.ok()) << stranger.status();
    const std::vector<std::byte> garbage(size, std::byte{0x5a});
    ASSERT_TRUE(stranger->SendRaw(garbage).ok());
    const absl::Status hung_up = stranger->Receive(kPatience).status();
    EXPECT_FALSE(hung_up.ok()) << size << " bytes of garbage were answered";
    EXPECT_NE(hung_up.code(), absl::StatusCode::kDeadlineExceeded) << size;
  }
  ExpectMoved(Migrate(RequestFor(ProfileOfVersion(2))), guest(),
              {Migration::LINK, Migration::BEFORE_RESUME});
}

TEST_F(StrangerTest, AnAgentThatHangsUpWhenAskedFailsTheMigrationOnly) {
  StartHost({.kernel = "sim"});
  StartGuest();
  absl::StatusOr<FakeAgent> agent = FakeAgent::Connect(host().agent_socket());
  ASSERT_TRUE(agent.ok()) << agent.status();
  ASSERT_TRUE(agent->Register("fake", kPatience).ok());
  const auto created = host().client().CreateMigration(RequestFor(ProfileOfVersion(2), "fake"));
  ASSERT_TRUE(created.ok()) << created.status();
  ASSERT_TRUE(agent->Receive(kPatience).ok());
  agent = absl::CancelledError("hung up");
  const Migration record = Watch(created->name());
  EXPECT_EQ(record.state(), Migration::FAILED) << record.DebugString();
  EXPECT_EQ(ReasonIn(record), "AGENT_GONE") << record.error().DebugString();
  ExpectStayed(guest());
  ExpectNothingLeft();
}

// --- profiles that start no VMM

struct BadProfile {
  const char* name;
  std::vector<std::string> command;
  const char* reason;
  int deadline_ms;
};

class BadProfileTest : public Scenario, public testing::WithParamInterface<BadProfile> {};

TEST_P(BadProfileTest, FailsTheMigrationBeforeTheGuestPauses) {
  const BadProfile& profile = GetParam();
  StartHost({.kernel = "sim",
             .profiles = {{.name = "bad", .command = profile.command},
                          {.name = "good",
                           .command = {harness::BinaryPath("vmm/reference/rehome-vmm-2"),
                                       "--target", "--kernel", "sim", "--check-on-exit"}}}});
  StartGuest();
  v1::CreateMigrationRequest request = RequestFor("bad");
  if (profile.deadline_ms != 0) {
    request.mutable_deadline()->set_nanos(profile.deadline_ms * 1'000'000);
  }
  const Migration record = Migrate(request);
  ExpectFailed(record, guest(), profile.reason);
  EXPECT_FALSE(record.guest_paused());
  ExpectMoved(Migrate(RequestFor("good")), guest(), {Migration::LINK, Migration::BEFORE_RESUME});
}

INSTANTIATE_TEST_SUITE_P(
    , BadProfileTest,
    testing::Values(
        BadProfile{"NoSuchProgram", {"/nonexistent/vmm"}, "PROFILE_NOT_EXECUTABLE", 0},
        BadProfile{"NotExecutable", {"/etc/passwd"}, "PROFILE_NOT_EXECUTABLE", 0},
        BadProfile{"ExitsAtOnce", {"/bin/true"}, "AGENT_GONE", 0},
        BadProfile{"SilentUntilTheTimeOut", {"/bin/tail", "-f", "/dev/null"}, "AGENT_TIMEOUT", 0},
        BadProfile{
            "SilentUntilTheDeadline", {"/bin/tail", "-f", "/dev/null"}, "DEADLINE_EXCEEDED", 500}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace rehome
