// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_server.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "daemon/testing/agent_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::IsEmpty;
using testing_support::Bytes;
using testing_support::BytesOf;
using testing_support::CountOpenFds;
using testing_support::FakeAgent;
using testing_support::kPatience;
using testing_support::MakeHello;
using testing_support::MakeRegister;

class AgentServerTest : public testing_support::AgentFixture {
 protected:
  FakeAgent Connect() { return FakeAgent::Connect(options_.socket_path); }
  // An owner that has said HELLO.
  FakeAgent ConnectOwner() {
    FakeAgent agent = Connect();
    EXPECT_EQ(agent.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_NONE);
    return agent;
  }
  bool EventuallyGone(const std::string& vm_id) {
    return Eventually([&] { return !vms_.Get(vm_id).ok(); });
  }
};

// ---- HELLO ----

TEST_F(AgentServerTest, AnswersHelloWithVersionAndCommonFeatures) {
  StartServer();
  FakeAgent agent = Connect();
  rehome_hello hello = MakeHello(REHOME_ROLE_OWNER);
  hello.version_max = 7;
  hello.features = REHOME_FEATURE_MAP | 1u << 30;
  ASSERT_TRUE(agent.Send(REHOME_MSG_HELLO, BytesOf(hello), 55));
  FakeAgent::Received reply = agent.Receive();
  EXPECT_EQ(reply.header.seq, 55u);
  EXPECT_EQ(reply.header.status, REHOME_REFUSED_NONE);
  EXPECT_EQ(reply.As<rehome_hello_reply>().version, REHOME_PROTOCOL_VERSION);
  EXPECT_EQ(reply.As<rehome_hello_reply>().features, REHOME_FEATURE_MAP);
}

TEST_F(AgentServerTest, RefusesAVersionThatItDoesNotSpeakAndSaysWhich) {
  StartServer();
  FakeAgent agent = Connect();
  rehome_hello hello = MakeHello(REHOME_ROLE_OWNER);
  hello.version_min = hello.version_max = 2;
  ASSERT_TRUE(agent.Send(REHOME_MSG_HELLO, BytesOf(hello)));
  FakeAgent::Received reply = agent.Receive();
  EXPECT_EQ(reply.header.status, REHOME_REFUSED_UNSUPPORTED);
  EXPECT_THAT(reply.As<rehome_refusal_text>().text, HasSubstr("version 1"));
  EXPECT_TRUE(agent.AwaitEnd());
}

TEST_F(AgentServerTest, AMalformedHelloIsAnsweredInWordsAndClosed) {
  StartServer();
  FakeAgent agent = Connect();
  rehome_hello hello = MakeHello(REHOME_ROLE_OWNER);
  hello.role = 9;
  ASSERT_TRUE(agent.Send(REHOME_MSG_HELLO, BytesOf(hello)));
  FakeAgent::Received reply = agent.Receive();
  EXPECT_EQ(reply.header.status, REHOME_REFUSED_MALFORMED);
  EXPECT_STREQ(reply.As<rehome_refusal_text>().text, "hello: unknown role 9");
  EXPECT_TRUE(agent.AwaitEnd());
}

TEST_F(AgentServerTest, NothingButHelloComesFirst) {
  StartServer();
  FakeAgent registering = Connect();
  EXPECT_EQ(registering.Register(MakeRegister("vm-1")), UINT32_MAX);
  FakeAgent reporting = Connect();
  reporting.SendEvent(REHOME_EVENT_RESUMED, "m-1");
  EXPECT_TRUE(reporting.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().violations == 2; }));
  EXPECT_THAT(vms_.List(), IsEmpty());
}

// ---- REGISTER ----

TEST_F(AgentServerTest, AnOwnersVmIsInTheDirectoryWhileItIsConnected) {
  StartServer();
  FakeAgent agent = ConnectOwner();
  ASSERT_EQ(agent.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  absl::StatusOr<VmEntry> entry = vms_.Get("vm-1");
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ(entry->vmm, "test-vmm 1.0");
  EXPECT_EQ(entry->vcpu_count, 2u);
  EXPECT_EQ(entry->memory_bytes, 2u * 16 * 4096);
  EXPECT_EQ(entry->state_format_write, 2u);
  EXPECT_EQ(entry->process.pid, getpid());
  EXPECT_GT(entry->register_time_unix_ns, 0);
  absl::StatusOr<std::shared_ptr<VmmLink>> link = vms_.LinkOf("vm-1");
  ASSERT_TRUE(link.ok());
  EXPECT_FALSE((*link)->hello().is_target);
  agent.Close();
  EXPECT_TRUE(EventuallyGone("vm-1"));
  EXPECT_TRUE((*link)->closed());
}

TEST_F(AgentServerTest, ATakenOrBadIdIsRefusedInWordsAndMayBeTriedAgain) {
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  // Another process: the directory lets a process take its own VM over from an earlier connection.
  // Before there are threads, one of which could have the allocator's lock at the fork.
  const pid_t child = fork();
  if (child == 0) {
    close(go[1]);
    char byte;
    if (read(go[0], &byte, 1) != 1) _exit(2);
    FakeAgent second = FakeAgent::Connect(options_.socket_path);
    bool good = second.Hello(REHOME_ROLE_OWNER) == REHOME_REFUSED_NONE;
    good = good && second.Register(MakeRegister("vm-1")) == REHOME_REFUSED_ID_TAKEN;
    good = good && second.Register(MakeRegister("Not An Id")) == REHOME_REFUSED_MALFORMED;
    good = good && second.Register(MakeRegister("vm-2")) == REHOME_REFUSED_NONE;
    _exit(good ? 0 : 1);
  }
  StartServer();
  FakeAgent first = ConnectOwner();
  EXPECT_EQ(first.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  EXPECT_EQ(write(go[1], "g", 1), 1);
  close(go[0]);
  close(go[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(vms_.Get("vm-1").ok());
  EXPECT_TRUE(EventuallyGone("vm-2")) << "its process is gone";
  EXPECT_THAT(log(), IsEmpty()) << "a refusal is no violation";
}

TEST_F(AgentServerTest, ARegistrationMayBeRepeatedForTheSameVmOnly) {
  StartServer();
  FakeAgent agent = ConnectOwner();
  rehome_register vm = MakeRegister("vm-1");
  ASSERT_EQ(agent.Register(vm), REHOME_REFUSED_NONE);
  vm.memory_bytes *= 2;
  ASSERT_EQ(agent.Register(vm), REHOME_REFUSED_NONE);
  EXPECT_EQ(vms_.Get("vm-1")->memory_bytes, vm.memory_bytes);
  EXPECT_EQ(agent.Register(MakeRegister("vm-2")), REHOME_REFUSED_DENIED);
  EXPECT_TRUE(agent.AwaitEnd());
  EXPECT_TRUE(EventuallyGone("vm-1"));
  EXPECT_FALSE(vms_.Get("vm-2").ok());
}

TEST_F(AgentServerTest, AMalformedRegistrationIsAnsweredInWordsAndClosed) {
  StartServer();
  FakeAgent agent = ConnectOwner();
  rehome_register vm = MakeRegister("vm-1");
  vm.vcpu_count = 0;
  EXPECT_EQ(agent.Register(vm), REHOME_REFUSED_MALFORMED);
  EXPECT_TRUE(agent.AwaitEnd());
  EXPECT_THAT(vms_.List(), IsEmpty());
}

TEST_F(AgentServerTest, ATargetRegistersAfterItsFirstRunAndNotBefore) {
  StartServer();
  FakeAgent early;
  ASSERT_NE(AdoptTarget(&early), nullptr);
  EXPECT_EQ(early.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_DENIED);
  EXPECT_TRUE(early.AwaitEnd());

  FakeAgent other_migration;
  ASSERT_NE(AdoptTarget(&other_migration), nullptr);
  ASSERT_TRUE(other_migration.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(other_migration.Register(MakeRegister("vm-1", "m-2")), REHOME_REFUSED_DENIED);

  FakeAgent agent;
  std::shared_ptr<VmmLink> link = AdoptTarget(&agent);
  ASSERT_TRUE(agent.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  EXPECT_EQ(agent.Register(MakeRegister("vm-1", "m-1")), REHOME_REFUSED_NONE);
  EXPECT_EQ(*vms_.LinkOf("vm-1"), link);
}

// ---- targets ----

TEST_F(AgentServerTest, AnAdoptedTargetMustSayThatItIsOne) {
  StartServer();
  FakeAgent agent;
  LaunchedVmm launched = MakeLaunched(&agent);
  auto adopted = std::async(std::launch::async,
                            [&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
  EXPECT_EQ(agent.Hello(REHOME_ROLE_OWNER), REHOME_REFUSED_DENIED);
  EXPECT_EQ(ReasonOf(adopted.get().status()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(launched.pidfd.valid()) << "the caller still has to end the process";
}

TEST_F(AgentServerTest, AdoptionFailsWithWhatHappenedInsteadOfHello) {
  StartServer();
  const size_t before = CountOpenFds();
  const auto adopt = [&](const std::function<void(FakeAgent&)>& act) {
    FakeAgent agent;
    LaunchedVmm launched = MakeLaunched(&agent);
    auto adopted = std::async(std::launch::async,
                              [&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
    act(agent);
    return ReasonOf(adopted.get().status());
  };
  EXPECT_EQ(adopt([](FakeAgent& agent) { agent.Close(); }), "AGENT_GONE");
  EXPECT_EQ(adopt([](FakeAgent& agent) { agent.SendDatagram(Bytes(5)); }),
            "AGENT_PROTOCOL_VIOLATION");
  rehome_hello future = MakeHello(REHOME_ROLE_TARGET);
  future.version_min = future.version_max = 9;
  EXPECT_EQ(adopt([&](FakeAgent& agent) { agent.Send(REHOME_MSG_HELLO, BytesOf(future)); }),
            "AGENT_VERSION_UNSUPPORTED");
  EXPECT_TRUE(Eventually([&] { return CountOpenFds() == before; }));
}

TEST_F(AgentServerTest, AdoptionEndsByDeadlineAndInterruptAndTheConnectionWithIt) {
  StartServer();
  FakeAgent late;
  LaunchedVmm launched = MakeLaunched(&late);
  const absl::Status timeout = server_->AdoptTarget(launched, milliseconds(30), nullptr).status();
  EXPECT_EQ(timeout.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(timeout), "AGENT_TIMEOUT");
  EXPECT_TRUE(late.AwaitEnd());

  std::unique_ptr<Interrupt> interrupt = *Interrupt::Create();
  FakeAgent agent;
  launched = MakeLaunched(&agent);
  auto adopted = std::async(std::launch::async, [&] {
    return server_->AdoptTarget(launched, kPatience, interrupt.get());
  });
  interrupt->Raise();
  EXPECT_EQ(ReasonOf(adopted.get().status()), "INTERRUPTED");
  agent.Send(REHOME_MSG_HELLO, BytesOf(MakeHello(REHOME_ROLE_TARGET)));
  EXPECT_TRUE(agent.AwaitEnd()) << "nobody wants it any more";
}

TEST_F(AgentServerTest, ItsEndClosesEveryConnection) {
  StartServer();
  FakeAgent owner = ConnectOwner();
  ASSERT_EQ(owner.Register(MakeRegister("vm-1")), REHOME_REFUSED_NONE);
  FakeAgent target;
  std::shared_ptr<VmmLink> link = AdoptTarget(&target);
  auto started = std::async(std::launch::async, [&] { return link->Start("m-1", kPatience); });
  ASSERT_FALSE(target.Receive().ended);
  server_.reset();
  EXPECT_EQ(ReasonOf(started.get()), "AGENT_GONE");
  EXPECT_TRUE(owner.AwaitEnd());
  EXPECT_TRUE(target.AwaitEnd());
  EXPECT_THAT(vms_.List(), IsEmpty());
}

}  // namespace
}  // namespace rehome
