// SPDX-License-Identifier: Apache-2.0
//
// The daemon's calls against a VMM that answers right, wrong, late, or not at all.
#include "daemon/socket_vmm_link.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "daemon/child_process.h"
#include "daemon/testing/agent_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing_support::Bytes;
using testing_support::BytesOf;
using testing_support::CountOpenFds;
using testing_support::Datagram;
using testing_support::DescribedVm;
using testing_support::FakeAgent;
using testing_support::kPatience;
using testing_support::MakeDescribedVm;
using testing_support::MakeHeader;
using testing_support::MakeMemfd;
using testing_support::MakeRefusal;

class SocketVmmLinkTest : public testing_support::AgentFixture {
 protected:
  void SetUp() override {
    AgentFixture::SetUp();
    StartServer();
    fds_without_link_ = CountOpenFds();
    link_ = AdoptTarget(&agent_);
    ASSERT_NE(link_, nullptr);
  }
  void TearDown() override {
    link_.reset();
    AgentFixture::TearDown();
  }
  template <typename Call>
  auto Async(Call call) {
    return std::async(std::launch::async, call);
  }
  std::future<absl::StatusOr<VmDescription>> DescribeAsync(milliseconds timeout = kPatience,
                                                           Interrupt* interrupt = nullptr) {
    return Async([=, this] { return link_->Describe("m-1", true, timeout, interrupt); });
  }
  // Every call of the interface, by name, with `timeout`.
  std::vector<std::pair<std::string, std::function<absl::Status()>>> AllCalls(
      milliseconds timeout) {
    return {
        {"Describe",
         [=, this] { return link_->Describe("m-1", false, timeout, nullptr).status(); }},
        {"Prepare",
         [=, this] {
           return link_
               ->Prepare({.migration_id = "m-1",
                          .strategy = Strategy::kMap,
                          .fence_policy = FencePolicy::kBeforeResume,
                          .source = &source_,
                          .block = block_.borrow()},
                         timeout, nullptr)
               .status();
         }},
        {"ArmTarget",
         [=, this] { return link_->ArmTarget("m-1", block_.borrow(), timeout, nullptr); }},
        {"ArmSource",
         [=, this] {
           return link_->ArmSource("m-1", 1, block_.borrow(), block_.borrow(), timeout, nullptr);
         }},
        {"Start", [=, this] { return link_->Start("m-1", timeout); }},
        {"Cancel", [=, this] { return link_->Cancel("m-1", timeout); }},
        {"Release", [=, this] { return link_->Release("m-1", timeout); }},
        {"ProbeVm", [=, this] { return link_->ProbeVm("m-1", timeout).status(); }},
    };
  }

  size_t fds_without_link_ = 0;
  FakeAgent agent_;
  std::shared_ptr<VmmLink> link_;
  VmDescription source_ = [] {
    VmDescription vm;
    vm.vm_id = "vm-1";
    return vm;
  }();
  UniqueFd block_ = MakeMemfd();
};

// ---- answers as they should be ----

TEST_F(SocketVmmLinkTest, KnowsWhoItTalksTo) {
  EXPECT_TRUE(link_->hello().is_target);
  EXPECT_EQ(link_->hello().vmm_name, "test-vmm");
  EXPECT_EQ(link_->hello().features, REHOME_FEATURES_ALL);
  EXPECT_EQ(link_->process().pid, getpid());
  EXPECT_TRUE(link_->pidfd().valid());
  EXPECT_FALSE(link_->closed());
}

TEST_F(SocketVmmLinkTest, DescribesAVm) {
  auto description = DescribeAsync();
  FakeAgent::Received request = agent_.Receive();
  EXPECT_EQ(request.header.type, REHOME_MSG_DESCRIBE);
  EXPECT_STREQ(request.As<rehome_describe>().migration_id, "m-1");
  EXPECT_EQ(request.As<rehome_describe>().hold, 1u);
  ASSERT_TRUE(agent_.Reply(request, MakeDescribedVm()));
  absl::StatusOr<VmDescription> vm = description.get();
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(vm->vm_id, "vm-1");
  EXPECT_EQ(vm->memory.size(), 2u);
  for (const UniqueFd& fd : vm->memory) {
    EXPECT_EQ(fcntl(fd.borrow().raw(), F_GETFD), FD_CLOEXEC);
  }
}

TEST_F(SocketVmmLinkTest, PassesTheSourceOnInPrepare) {
  auto description = DescribeAsync();
  ASSERT_TRUE(agent_.Reply(agent_.Receive(), MakeDescribedVm()));
  absl::StatusOr<VmDescription> source = description.get();
  ASSERT_TRUE(source.ok());
  auto prepared = Async([&] {
    return link_->Prepare({.migration_id = "m-1",
                           .strategy = Strategy::kMapMove,
                           .fence_policy = FencePolicy::kKernel,
                           .source = &*source,
                           .block = block_.borrow()},
                          kPatience, nullptr);
  });
  FakeAgent::Received request = agent_.Receive();
  EXPECT_EQ(request.header.type, REHOME_MSG_PREPARE);
  const auto prepare = request.As<rehome_prepare>();
  EXPECT_EQ(prepare.strategy, REHOME_STRATEGY_MAP_MOVE);
  EXPECT_EQ(prepare.fence_policy, REHOME_FENCE_KERNEL);
  ASSERT_EQ(request.fds.size(), 7u) << "VM, two memories, config, two named, block";
  absl::StatusOr<FileIdentity> sent = Identify(source->memory[0].borrow());
  absl::StatusOr<FileIdentity> arrived = Identify(request.fds[1].borrow());
  ASSERT_TRUE(sent.ok() && arrived.ok());
  EXPECT_EQ(sent->id, arrived->id);
  ASSERT_TRUE(agent_.Reply(request, MakeDescribedVm(/*is_source=*/false)));
  absl::StatusOr<VmDescription> target = prepared.get();
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_FALSE(target->config.valid());
  EXPECT_TRUE(source->vm.valid()) << "only duplicates were sent";
}

TEST_F(SocketVmmLinkTest, SendsArmOrdersWithTheirDescriptors) {
  auto armed = Async([&] {
    return link_->ArmSource("m-1", 0x77, block_.borrow(), link_->pidfd(), kPatience, nullptr);
  });
  FakeAgent::Received request = agent_.Receive();
  EXPECT_EQ(request.header.type, REHOME_MSG_ARM_SOURCE);
  EXPECT_EQ(request.As<rehome_arm>().layout_digest, 0x77u);
  EXPECT_EQ(request.fds.size(), 2u);
  ASSERT_TRUE(agent_.Reply(request));
  EXPECT_TRUE(armed.get().ok());

  armed = Async([&] { return link_->ArmTarget("m-1", link_->pidfd(), kPatience, nullptr); });
  request = agent_.Receive();
  EXPECT_EQ(request.header.type, REHOME_MSG_ARM_TARGET);
  ASSERT_EQ(request.fds.size(), 1u);
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(request.fds[0].borrow());
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(process->pid, getpid());
  ASSERT_TRUE(agent_.Reply(request));
  EXPECT_TRUE(armed.get().ok());
}

TEST_F(SocketVmmLinkTest, SendsTheOrdersThatAreOnlyAReference) {
  const std::vector<std::pair<rehome_message, std::function<absl::Status()>>> orders = {
      {REHOME_MSG_START, [&] { return link_->Start("m-1", kPatience); }},
      {REHOME_MSG_CANCEL, [&] { return link_->Cancel("m-1", kPatience); }},
      {REHOME_MSG_RELEASE, [&] { return link_->Release("m-1", kPatience); }},
  };
  for (const auto& [type, order] : orders) {
    auto done = Async(order);
    FakeAgent::Received request = agent_.Receive();
    EXPECT_EQ(request.header.type, type);
    EXPECT_STREQ(request.As<rehome_migration_ref>().migration_id, "m-1");
    ASSERT_TRUE(agent_.Reply(request));
    EXPECT_TRUE(done.get().ok());
  }
}

TEST_F(SocketVmmLinkTest, Probes) {
  auto probed = Async([&] { return link_->ProbeVm("m-1", kPatience); });
  ASSERT_TRUE(
      agent_.Reply(agent_.Receive(), BytesOf(rehome_probe{.vm_alive = 1, .guest_running = 1})));
  absl::StatusOr<VmmLink::Probe> probe = probed.get();
  ASSERT_TRUE(probe.ok());
  EXPECT_TRUE(probe->vm_alive);
  EXPECT_TRUE(probe->guest_running);
}

TEST_F(SocketVmmLinkTest, AnswersMayComeInAnyOrder) {
  auto first = Async([&] { return link_->Start("m-1", kPatience); });
  FakeAgent::Received start = agent_.Receive();
  auto second = Async([&] { return link_->Cancel("m-1", kPatience); });
  FakeAgent::Received cancel = agent_.Receive();
  ASSERT_TRUE(agent_.Refuse(cancel, REHOME_REFUSED_BUSY, "no"));
  EXPECT_EQ(ReasonOf(second.get()), "AGENT_REFUSED_BUSY");
  ASSERT_TRUE(agent_.Reply(start));
  EXPECT_TRUE(first.get().ok());
}

TEST_F(SocketVmmLinkTest, ARefusalCarriesTheAgentsWordsAndLeavesTheConnectionOpen) {
  auto description = DescribeAsync();
  ASSERT_TRUE(agent_.Refuse(agent_.Receive(), REHOME_REFUSED_KERNEL, "KVM_X: EINVAL"));
  const absl::Status status = description.get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "AGENT_REFUSED_KERNEL");
  EXPECT_EQ(status.message(), "KVM_X: EINVAL");
  EXPECT_FALSE(link_->closed());
}

TEST_F(SocketVmmLinkTest, ALayoutThatCannotBeMigratedIsNoReasonToHangUp) {
  auto description = DescribeAsync();
  DescribedVm vm = MakeDescribedVm();
  vm.parts.slots[0].flags = kMemslotDirtyLog;
  vm.Update();
  ASSERT_TRUE(agent_.Reply(agent_.Receive(), vm));
  EXPECT_EQ(ReasonOf(description.get().status()), "LAYOUT_INVALID");
  EXPECT_FALSE(link_->closed());
}

// ---- answers that break the protocol: the call fails, the connection ends, nothing stays open
// ----

struct BadAnswer {
  const char* name;
  std::function<void(FakeAgent&, const FakeAgent::Received&)> answer;
};

class SocketVmmLinkBadAnswers : public SocketVmmLinkTest,
                                public testing::WithParamInterface<BadAnswer> {};

TEST_P(SocketVmmLinkBadAnswers, EndTheConnection) {
  auto description = DescribeAsync();
  {
    FakeAgent::Received request = agent_.Receive();
    GetParam().answer(agent_, request);
  }
  const absl::Status status = description.get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_EQ(ReasonOf(status), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(link_->closed());
  EXPECT_TRUE(agent_.AwaitEnd());
  EXPECT_EQ(ReasonOf(link_->Start("m-1", kPatience)), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 0; }));
  EXPECT_EQ(server_->stats().violations, 1u);
  ASSERT_EQ(log().size(), 1u);
  EXPECT_THAT(log().front(), HasSubstr("AGENT_PROTOCOL_VIOLATION"));
  EXPECT_THAT(log().front(), HasSubstr("test-vmm 1.0"));
  // What is left: our end of the connection, and the pidfd of the link that we still have.
  EXPECT_TRUE(Eventually([&] { return CountOpenFds() <= fds_without_link_ + 2; }))
      << CountOpenFds() << " now, " << fds_without_link_ << " at first";
}

void ReplyWithHeader(FakeAgent& agent, const FakeAgent::Received& request,
                     const std::function<void(rehome_header&)>& spoil) {
  const DescribedVm vm = MakeDescribedVm();
  const Bytes payload = vm.parts.Payload();
  rehome_header header =
      MakeHeader(REHOME_MSG_DESCRIBE, true, request.header.seq, payload.size(), vm.fds.size());
  spoil(header);
  agent.SendDatagram(Datagram(header, payload), vm.Borrow());
}

void ReplyWithVm(FakeAgent& agent, const FakeAgent::Received& request,
                 const std::function<void(DescribedVm&)>& spoil) {
  DescribedVm vm = MakeDescribedVm();
  spoil(vm);
  agent.Reply(request, vm);
}

const BadAnswer kBadAnswers[] = {
    {"Garbage", [](auto& agent, auto&) { agent.SendDatagram(Bytes(100, std::byte{0x5a})); }},
    {"OneByte", [](auto& agent, auto&) { agent.SendDatagram(Bytes(1)); }},
    {"TooLong", [](auto& agent, auto&) { agent.SendDatagram(Bytes(REHOME_MAX_MESSAGE + 1)); }},
    {"WrongMagic",
     [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { h.magic = 1; }); }},
    {"WrongVersion",
     [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { h.version = 2; }); }},
    {"WrongType",
     [](auto& agent, auto& r) {
       ReplyWithHeader(agent, r, [](auto& h) { h.type = REHOME_MSG_PREPARE; });
     }},
    {"WrongSeq", [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { ++h.seq; }); }},
    {"WrongSize",
     [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { --h.payload_size; }); }},
    {"FewerFdsThanSaid",
     [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { ++h.fd_count; }); }},
    {"MoreFdsThanSaid",
     [](auto& agent, auto& r) { ReplyWithHeader(agent, r, [](auto& h) { --h.fd_count; }); }},
    {"EmptyDescription", [](auto& agent, auto& r) { agent.Reply(r); }},
    {"NoFds", [](auto& agent, auto& r) { agent.Reply(r, MakeDescribedVm().parts.Payload()); }},
    {"TooFewFds",
     [](auto& agent, auto& r) { ReplyWithVm(agent, r, [](auto& vm) { vm.fds.pop_back(); }); }},
    {"TooManyFds",
     [](auto& agent, auto& r) {
       ReplyWithVm(agent, r, [](auto& vm) { vm.fds.push_back(MakeMemfd()); });
     }},
    {"WrongKindOfFd",
     [](auto& agent, auto& r) {
       ReplyWithVm(agent, r,
                   [](auto& vm) { vm.fds[0] = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)); });
     }},
    {"ForeignInode",
     [](auto& agent, auto& r) {
       ReplyWithVm(agent, r, [](auto& vm) {
         ++vm.parts.slots[0].inode;
         vm.Update();
       });
     }},
    {"WrongDigest",
     [](auto& agent, auto& r) {
       ReplyWithVm(agent, r, [](auto& vm) { ++vm.parts.head.layout_digest; });
     }},
    {"RefusalWithoutItsText",
     [](auto& agent, auto& r) {
       rehome_header header = MakeHeader(REHOME_MSG_DESCRIBE, true, r.header.seq, 0, 0);
       header.status = REHOME_REFUSED_BUSY;
       agent.SendDatagram(BytesOf(header));
     }},
    {"UnknownEvent",
     [](auto& agent, auto&) { agent.SendEvent(static_cast<rehome_event_kind>(99), "m-1"); }},
    {"SecondHello",
     [](auto& agent, auto&) {
       agent.Send(REHOME_MSG_HELLO, BytesOf(testing_support::MakeHello(REHOME_ROLE_TARGET)));
     }},
    {"RequestOfTheDaemons",
     [](auto& agent, auto&) { agent.Send(REHOME_MSG_DESCRIBE, BytesOf(rehome_describe{})); }},
    {"UnsolicitedRegister",
     [](auto& agent, auto&) {
       agent.Send(REHOME_MSG_REGISTER, BytesOf(testing_support::MakeRegister("vm-1")));
     }},
};

INSTANTIATE_TEST_SUITE_P(All, SocketVmmLinkBadAnswers, testing::ValuesIn(kBadAnswers),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(SocketVmmLinkTest, ASecondAnswerEndsTheConnection) {
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  FakeAgent::Received request = agent_.Receive();
  ASSERT_TRUE(agent_.Reply(request));
  EXPECT_TRUE(started.get().ok());
  agent_.Reply(request);
  EXPECT_TRUE(agent_.AwaitEnd());
  EXPECT_TRUE(link_->closed());
}

TEST_F(SocketVmmLinkTest, AnAnswerWithAPayloadWhereNoneBelongsEndsTheConnection) {
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_TRUE(agent_.Reply(agent_.Receive(), Bytes(1)));
  EXPECT_EQ(ReasonOf(started.get()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(agent_.AwaitEnd());
}

TEST_F(SocketVmmLinkTest, AViolationHurtsNoOtherConnection) {
  FakeAgent other_agent;
  std::shared_ptr<VmmLink> other = AdoptTarget(&other_agent);
  ASSERT_NE(other, nullptr);
  agent_.SendDatagram(Bytes(100));
  EXPECT_TRUE(agent_.AwaitEnd());
  auto started = Async([&] { return other->Start("m-2", kPatience); });
  ASSERT_TRUE(other_agent.Reply(other_agent.Receive()));
  EXPECT_TRUE(started.get().ok());
}

// ---- silence, death, interrupts, in every call ----

TEST_F(SocketVmmLinkTest, EveryCallEndsWhenTheVmmClosesItsConnection) {
  for (const auto& [name, call] : AllCalls(kPatience)) {
    FakeAgent agent;
    link_ = AdoptTarget(&agent);
    ASSERT_NE(link_, nullptr);
    auto result = Async(call);
    ASSERT_FALSE(agent.Receive().ended) << name;
    agent.Close();
    const absl::Status status = result.get();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << name;
    EXPECT_EQ(ReasonOf(status), "AGENT_GONE") << name;
    EXPECT_EQ(ReasonOf(call()), "AGENT_GONE") << name << " on a closed connection";
  }
}

TEST_F(SocketVmmLinkTest, EveryCallEndsWhenTheVmmsProcessDies) {
  for (const auto& [name, call] : AllCalls(kPatience)) {
    // The process is a child; its end of the connection stays open here, as if a grandchild had it.
    const testing_support::TestChild child = testing_support::StartTestChild({"wait"});
    FakeAgent agent;
    LaunchedVmm launched = MakeLaunched(&agent);
    absl::StatusOr<UniqueFd> pidfd = Duplicate(child.pidfd.borrow());
    ASSERT_TRUE(pidfd.ok());
    launched.pidfd = *std::move(pidfd);
    launched.process = child.process;
    auto adopted = Async([&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
    ASSERT_EQ(agent.Hello(REHOME_ROLE_TARGET), REHOME_REFUSED_NONE);
    link_ = *adopted.get();
    auto result = Async(call);
    ASSERT_FALSE(agent.Receive().ended) << name;
    KillChild(child.pidfd.borrow());
    EXPECT_EQ(ReasonOf(result.get()), "AGENT_GONE") << name;
    EXPECT_TRUE(agent.AwaitEnd());
  }
}

TEST_F(SocketVmmLinkTest, EveryCallHasADeadlineAndALateAnswerIsDropped) {
  for (const auto& [name, call] : AllCalls(milliseconds(20))) {
    const absl::Status status = call();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << name;
    EXPECT_EQ(ReasonOf(status), "AGENT_TIMEOUT") << name;
    FakeAgent::Received request = agent_.Receive();
    request.fds.clear();
    if (request.header.type == REHOME_MSG_DESCRIBE) {
      ASSERT_TRUE(agent_.Reply(request, MakeDescribedVm()));
    } else {
      ASSERT_TRUE(agent_.Reply(request));
    }
  }
  // An answer in time shows that the late ones have been handled, and that the link still works.
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_TRUE(agent_.Reply(agent_.Receive()));
  EXPECT_TRUE(started.get().ok());
  // Two sockets and a pidfd: nothing of what the late answers carried.
  EXPECT_TRUE(Eventually([&] { return CountOpenFds() <= fds_without_link_ + 3; }))
      << CountOpenFds() << " now, " << fds_without_link_ << " at first";
}

TEST_F(SocketVmmLinkTest, AnInterruptEndsACallThatWaits) {
  std::unique_ptr<Interrupt> interrupt = *Interrupt::Create();
  auto description = DescribeAsync(kPatience, interrupt.get());
  ASSERT_FALSE(agent_.Receive().ended);
  interrupt->Raise();
  const absl::Status status = description.get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(status), "INTERRUPTED");
  EXPECT_FALSE(link_->closed());
  // Once raised, nothing is even sent.
  EXPECT_EQ(ReasonOf(link_->Describe("m-1", true, kPatience, interrupt.get()).status()),
            "INTERRUPTED");
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  EXPECT_EQ(agent_.Receive().header.type, REHOME_MSG_START);
  agent_.Close();
  EXPECT_EQ(ReasonOf(started.get()), "AGENT_GONE");
}

TEST_F(SocketVmmLinkTest, AVmmThatOwesTooManyAnswersIsStalled) {
  for (size_t i = 0; i < kMaxPendingCalls; ++i) {
    EXPECT_EQ(ReasonOf(link_->Start("m-1", milliseconds(0))), "AGENT_TIMEOUT");
  }
  const absl::Status status = link_->Start("m-1", milliseconds(0));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "AGENT_STALLED");
  // One answer, however late, makes room for one call.
  ASSERT_TRUE(agent_.Reply(agent_.Receive()));
  EXPECT_TRUE(Eventually(
      [&] { return ReasonOf(link_->Start("m-1", milliseconds(0))) == "AGENT_TIMEOUT"; }));
}

TEST_F(SocketVmmLinkTest, AVmmThatNeverReadsIsStalledAndNobodyBlocks) {
  FakeAgent agent;
  LaunchedVmm launched = MakeLaunched(&agent);
  const int small = 1;  // the kernel makes it its minimum, a few KiB
  ASSERT_EQ(
      setsockopt(launched.connection.borrow().raw(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
      0);
  auto adopted = Async([&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
  ASSERT_EQ(agent.Hello(REHOME_ROLE_TARGET), REHOME_REFUSED_NONE);
  std::shared_ptr<VmmLink> link = *adopted.get();
  std::string reason = "AGENT_TIMEOUT";
  for (size_t i = 0; i < kMaxPendingCalls && reason == "AGENT_TIMEOUT"; ++i) {
    reason = ReasonOf(link->Start("m-1", milliseconds(0)));
  }
  EXPECT_EQ(reason, "AGENT_STALLED");
  EXPECT_EQ(ReasonOf(link->Start("m-1", milliseconds(0))), "AGENT_STALLED");
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_TRUE(agent_.Reply(agent_.Receive()));
  EXPECT_TRUE(started.get().ok()) << "the other connection";
}

TEST_F(SocketVmmLinkTest, CloseEndsCallsAndWaits) {
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_FALSE(agent_.Receive().ended);
  auto event = Async(
      [&] { return link_->AwaitEvent("m-1", {LinkEvent::Kind::kResumed}, kPatience, nullptr); });
  link_->Close();
  EXPECT_EQ(ReasonOf(started.get()), "AGENT_GONE");
  EXPECT_EQ(event.get()->kind, LinkEvent::Kind::kClosed);
  EXPECT_TRUE(agent_.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 0; }));
  EXPECT_EQ(server_->stats().violations, 0u);
}

// ---- events ----

TEST_F(SocketVmmLinkTest, AnEventBeforeTheWaitIsNotMissed) {
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_HANDED_OVER, "m-1", "words"));
  absl::StatusOr<LinkEvent> event = link_->AwaitEvent(
      "m-1", {LinkEvent::Kind::kResumed, LinkEvent::Kind::kHandedOver}, kPatience, nullptr);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->kind, LinkEvent::Kind::kHandedOver);
  EXPECT_EQ(event->migration_id, "m-1");
  EXPECT_EQ(event->text, "words");
  EXPECT_EQ(
      ReasonOf(link_->AwaitEvent("m-1", {LinkEvent::Kind::kHandedOver}, milliseconds(0), nullptr)
                   .status()),
      "AGENT_TIMEOUT")
      << "an event is taken once";
}

TEST_F(SocketVmmLinkTest, WaitsForTheRightMigrationAndKind) {
  auto waiting = Async(
      [&] { return link_->AwaitEvent("m-2", {LinkEvent::Kind::kFirstRun}, kPatience, nullptr); });
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_FIRST_RUN, "m-1"));
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_RESUMED, "m-2"));
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_FIRST_RUN, "m-2", "this"));
  absl::StatusOr<LinkEvent> event = waiting.get();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->text, "this");
}

TEST_F(SocketVmmLinkTest, AGuestThatStopsInterestsEveryMigration) {
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_GUEST_STOPPED, ""));
  absl::StatusOr<LinkEvent> event =
      link_->AwaitEvent("m-1", {LinkEvent::Kind::kGuestStopped}, kPatience, nullptr);
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->kind, LinkEvent::Kind::kGuestStopped);
}

TEST_F(SocketVmmLinkTest, WhatWasSaidBeforeTheEndComesBeforeTheEnd) {
  ASSERT_TRUE(agent_.SendEvent(REHOME_EVENT_FIRST_RUN_FAILED, "m-1", "triple fault"));
  agent_.Close();
  const std::vector<LinkEvent::Kind> kinds = {LinkEvent::Kind::kFirstRun,
                                              LinkEvent::Kind::kFirstRunFailed};
  absl::StatusOr<LinkEvent> event = link_->AwaitEvent("m-1", kinds, kPatience, nullptr);
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->kind, LinkEvent::Kind::kFirstRunFailed);
  event = link_->AwaitEvent("m-1", kinds, kPatience, nullptr);
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->kind, LinkEvent::Kind::kClosed);
}

TEST_F(SocketVmmLinkTest, WaitingForAnEventEndsByDeadlineAndInterrupt) {
  EXPECT_EQ(
      ReasonOf(link_->AwaitEvent("m-1", {LinkEvent::Kind::kFirstRun}, milliseconds(20), nullptr)
                   .status()),
      "AGENT_TIMEOUT");
  std::unique_ptr<Interrupt> interrupt = *Interrupt::Create();
  auto event = Async([&] {
    return link_->AwaitEvent("m-1", {LinkEvent::Kind::kFirstRun}, kPatience, interrupt.get());
  });
  interrupt->Raise();
  EXPECT_EQ(ReasonOf(event.get().status()), "INTERRUPTED");
}

TEST_F(SocketVmmLinkTest, KeepsTheNewestEventsOfAnAgentThatSendsWithoutEnd) {
  for (size_t i = 0; i < kMaxQueuedEvents + 10; ++i) {
    const std::string id = "m-" + std::to_string(i);
    ASSERT_TRUE(Eventually([&] { return agent_.SendEvent(REHOME_EVENT_RESUMED, id); }));
  }
  const std::vector<LinkEvent::Kind> kinds = {LinkEvent::Kind::kResumed};
  const std::string last = "m-" + std::to_string(kMaxQueuedEvents + 9);
  ASSERT_TRUE(link_->AwaitEvent(last, kinds, kPatience, nullptr).ok());
  EXPECT_EQ(ReasonOf(link_->AwaitEvent("m-9", kinds, milliseconds(0), nullptr).status()),
            "AGENT_TIMEOUT")
      << "the oldest were dropped";
  EXPECT_TRUE(link_->AwaitEvent("m-10", kinds, milliseconds(0), nullptr).ok());
}

}  // namespace
}  // namespace rehome
