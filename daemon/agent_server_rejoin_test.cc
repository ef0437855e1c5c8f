// SPDX-License-Identifier: Apache-2.0
//
// How VMMs find back to a daemon that was started anew.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "daemon/agent_server.h"
#include "daemon/testing/agent_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing_support::BytesOf;
using testing_support::FakeAgent;
using testing_support::kPatience;
using testing_support::MakeHello;
using testing_support::MakeRegister;

class AgentServerRejoinTest : public testing_support::AgentFixture {
 protected:
  static ProcessIdentity ThisProcess() { return *IdentifyProcess(OpenPidfd(getpid())->borrow()); }
  FakeAgent Connect(rehome_role role) {
    FakeAgent agent = FakeAgent::Connect(options_.socket_path);
    EXPECT_EQ(agent.Hello(role), REHOME_REFUSED_NONE);
    return agent;
  }
  absl::StatusOr<std::shared_ptr<VmmLink>> AwaitThisProcess(milliseconds timeout = kPatience) {
    return server_->AwaitLink(ThisProcess(), timeout, nullptr);
  }
};

TEST_F(AgentServerRejoinTest, AnOwnerAndATargetAreFoundByTheirProcessBeforeAndAfterTheyCome) {
  StartServer();
  for (const rehome_role role : {REHOME_ROLE_OWNER, REHOME_ROLE_TARGET}) {
    auto awaited = std::async(std::launch::async, [&] { return AwaitThisProcess(); });
    FakeAgent agent = Connect(role);
    absl::StatusOr<std::shared_ptr<VmmLink>> link = awaited.get();
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_EQ((*link)->hello().is_target, role == REHOME_ROLE_TARGET);
    EXPECT_EQ(*AwaitThisProcess(milliseconds(0)), *link) << "it is there already";
    auto started = std::async(std::launch::async, [&] { return (*link)->Start("m-1", kPatience); });
    ASSERT_TRUE(agent.Reply(agent.Receive()));
    EXPECT_TRUE(started.get().ok()) << "and it can be talked to";
    agent.Close();
    EXPECT_TRUE(Eventually([&] { return (*link)->closed(); }));
    EXPECT_EQ(ReasonOf(AwaitThisProcess(milliseconds(0)).status()), "AGENT_TIMEOUT");
  }
}

TEST_F(AgentServerRejoinTest, AnotherProcessIsNotTakenForTheOneThatIsAwaited) {
  StartServer();
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ready[1]);
    FakeAgent impostor = FakeAgent::Connect(options_.socket_path);
    if (impostor.Hello(REHOME_ROLE_TARGET) != REHOME_REFUSED_NONE) _exit(1);
    char byte;
    _exit(read(ready[0], &byte, 1) == 1 ? 0 : 1);  // connected all the while
  }
  ASSERT_TRUE(Eventually([&] { return server_->stats().unsettled == 1; }));
  ProcessIdentity almost = ThisProcess();
  EXPECT_EQ(ReasonOf(AwaitThisProcess(milliseconds(50)).status()), "AGENT_TIMEOUT");
  // As if the number had been used again: the same pid, and nothing else.
  almost.pid = child;
  EXPECT_EQ(ReasonOf(server_->AwaitLink(almost, milliseconds(50), nullptr).status()),
            "AGENT_TIMEOUT");
  EXPECT_EQ(write(ready[1], "", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(AgentServerRejoinTest, ATargetThatNobodyKnowsCanRegisterNothing) {
  StartServer();
  FakeAgent agent = Connect(REHOME_ROLE_TARGET);
  ASSERT_TRUE(agent.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(agent.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_DENIED);
  EXPECT_TRUE(agent.AwaitEnd());
  EXPECT_THAT(vms_.List(), IsEmpty());
  EXPECT_EQ(server_->stats().violations, 0u) << "it comes again as the owner that it has become";
}

TEST_F(AgentServerRejoinTest, ATargetThatWasClaimedRegistersAfterItsFirstRun) {
  StartServer();
  FakeAgent agent = Connect(REHOME_ROLE_TARGET);
  ASSERT_TRUE(AwaitThisProcess().ok());
  ASSERT_TRUE(agent.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(agent.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_NONE);
  EXPECT_TRUE(vms_.Get("vm-1").ok());
}

TEST_F(AgentServerRejoinTest, ATargetThatNobodyClaimsInTimeIsClosedAndAClaimedOneIsNot) {
  options_.claim_timeout = milliseconds(100);
  StartServer();
  FakeAgent claimed = Connect(REHOME_ROLE_TARGET);
  ASSERT_TRUE(AwaitThisProcess().ok());
  FakeAgent unclaimed = Connect(REHOME_ROLE_TARGET);
  EXPECT_TRUE(unclaimed.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().timed_out == 1; }));
  ASSERT_THAT(log(), SizeIs(1));
  EXPECT_THAT(log().front(), HasSubstr("a target of no migration"));
  // The claimed one was older, so its time was over as well.
  ASSERT_TRUE(claimed.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(claimed.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_NONE);
}

TEST_F(AgentServerRejoinTest, TheOldestTargetThatNobodyKnowsMakesRoomForOneMore) {
  options_.max_unsettled_connections = 2;
  StartServer();
  FakeAgent claimed = Connect(REHOME_ROLE_TARGET);
  ASSERT_TRUE(AwaitThisProcess().ok());
  FakeAgent first = Connect(REHOME_ROLE_TARGET), second = Connect(REHOME_ROLE_TARGET);
  FakeAgent third = Connect(REHOME_ROLE_TARGET);
  EXPECT_TRUE(first.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().crowded_out == 1; }));
  EXPECT_TRUE(claimed.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(claimed.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_NONE);
}

TEST_F(AgentServerRejoinTest, NobodyIsAnsweredBeforeAcceptingStarts) {
  absl::StatusOr<std::unique_ptr<AgentServer>> server =
      AgentServer::Create(options_, &vms_, kinds_.get());
  ASSERT_TRUE(server.ok()) << server.status();
  FakeAgent early = FakeAgent::Connect(options_.socket_path);
  ASSERT_TRUE(early.Send(REHOME_MSG_HELLO, BytesOf(MakeHello(REHOME_ROLE_OWNER))));
  // A launched target is served meanwhile, so the I/O thread has had its turns.
  FakeAgent target;
  LaunchedVmm launched = MakeLaunched(&target);
  auto adopted = std::async(std::launch::async,
                            [&] { return (*server)->AdoptTarget(launched, kPatience, nullptr); });
  ASSERT_EQ(target.Hello(REHOME_ROLE_TARGET), REHOME_REFUSED_NONE);
  ASSERT_TRUE(adopted.get().ok());
  EXPECT_EQ((*server)->stats().accepted, 0u);

  ASSERT_TRUE((*server)->StartAccepting().ok());
  EXPECT_EQ(early.Receive().header.type, REHOME_MSG_HELLO);
  EXPECT_EQ(early.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
}

TEST_F(AgentServerRejoinTest, AVmOfAnUnfinishedMigrationIsItsSourcesAndItsTargetsAlone) {
  VmEntry vm{.vm_id = "vm-1", .vcpu_count = 2};
  vm.process = ThisProcess();
  vms_.Reserve(vm, "m-1");
  StartServer();
  const auto in_another_process = [&](const std::string& migration_id, uint32_t expected) {
    const pid_t child = fork();
    if (child == 0) {
      FakeAgent other = FakeAgent::Connect(options_.socket_path);
      const bool good = other.Hello(REHOME_ROLE_OWNER) == REHOME_REFUSED_NONE &&
                        other.Register(MakeRegister("vm-1", migration_id)) == expected;
      _exit(good ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status == 0;
  };
  EXPECT_TRUE(in_another_process("", REHOME_REFUSED_ID_TAKEN));
  EXPECT_TRUE(in_another_process("m-2", REHOME_REFUSED_ID_TAKEN));
  EXPECT_TRUE(in_another_process("m-1", REHOME_REFUSED_NONE)) << "a target that became the owner";
  EXPECT_THAT(vms_.List(), IsEmpty()) << "saying so does not make it the owner";
  FakeAgent source = Connect(REHOME_ROLE_OWNER);
  EXPECT_EQ(source.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  EXPECT_EQ(vms_.Get("vm-1")->process, ThisProcess());
  EXPECT_EQ(vms_.Get("vm-1")->active_migration, "m-1");
}

}  // namespace
}  // namespace rehome
