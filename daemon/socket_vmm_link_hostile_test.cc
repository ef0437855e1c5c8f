// SPDX-License-Identifier: Apache-2.0
//
// The daemon's calls against a VMM that answers wrong, late or not at all, that dies, or never
// reads.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "daemon/child_process.h"
#include "daemon/socket_vmm_link.h"
#include "daemon/testing/link_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"

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
using testing_support::MakeHandedIn;
using testing_support::MakeHeader;
using testing_support::MakeMemfd;

class SocketVmmLinkHostileTest : public testing_support::LinkFixture {};

// ---- answers that break the protocol: the call fails, the connection ends, nothing leaks ----

struct BadAnswer {
  const char* name;
  std::function<void(FakeAgent&, const FakeAgent::Received&)> answer;
};

class SocketVmmLinkBadAnswers : public SocketVmmLinkHostileTest,
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
  // It is written a moment after the connection has left the count.
  ASSERT_TRUE(Eventually([&] { return log().size() == 1; })) << log().size();
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

// ---- the same for HAND_IN, where the block is the new thing to lie about ----

struct BadHandIn {
  const char* name;
  std::function<void(DescribedVm&)> spoil;
};

class SocketVmmLinkBadHandIns : public SocketVmmLinkHostileTest,
                                public testing::WithParamInterface<BadHandIn> {};

TEST_P(SocketVmmLinkBadHandIns, EndTheConnection) {
  auto asked = Async([&] { return link_->HandIn("m-1", kPatience); });
  {
    FakeAgent::Received request = agent_.Receive();
    DescribedVm vm = MakeHandedIn("m-1");
    GetParam().spoil(vm);
    agent_.Reply(request, vm);
  }
  EXPECT_EQ(ReasonOf(asked.get().status()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(link_->closed());
  EXPECT_TRUE(agent_.AwaitEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 0; }));
  EXPECT_TRUE(Eventually([&] { return CountOpenFds() <= fds_without_link_ + 2; }))
      << CountOpenFds() << " now, " << fds_without_link_ << " at first";
}

UniqueFd BlockWithout(int seals) {
  UniqueFd block(memfd_create("block", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  rehome_block_header header = {};
  header.magic = REHOME_BLOCK_MAGIC;
  testing_support::SetText(header.migration_id, "m-1");
  EXPECT_EQ(write(block.borrow().raw(), &header, sizeof(header)),
            static_cast<ssize_t>(sizeof(header)));
  EXPECT_EQ(fcntl(block.borrow().raw(), F_ADD_SEALS,
                  (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) & ~seals),
            0);
  return block;
}

const BadHandIn kBadHandIns[] = {
    {"NoBlock",
     [](DescribedVm& vm) {
       vm.parts.entries.pop_back();
       vm.fds.pop_back();
       vm.Update();
     }},
    {"TwoBlocks",
     [](DescribedVm& vm) {
       vm.parts.AddEntry(REHOME_FD_BLOCK);
       vm.fds.push_back(testing_support::MakeBlock("m-1"));
       vm.Update();
     }},
    {"OtherMigrationsBlock",
     [](DescribedVm& vm) { vm.fds.back() = testing_support::MakeBlock("m-2"); }},
    {"MemfdForABlock",
     [](DescribedVm& vm) { vm.fds.back() = testing_support::MakeSealedMemfd(8192); }},
    {"DeviceForABlock",
     [](DescribedVm& vm) { vm.fds.back() = UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)); }},
    {"BlockThatCanShrink", [](DescribedVm& vm) { vm.fds.back() = BlockWithout(F_SEAL_SHRINK); }},
    {"BlockThatCanGrow", [](DescribedVm& vm) { vm.fds.back() = BlockWithout(F_SEAL_GROW); }},
    {"BlockAndVmSwapped", [](DescribedVm& vm) { std::swap(vm.fds.front(), vm.fds.back()); }},
    {"FdMissing", [](DescribedVm& vm) { vm.fds.pop_back(); }},
    {"ForeignInode",
     [](DescribedVm& vm) {
       ++vm.parts.slots[0].inode;
       vm.Update();
     }},
    {"WrongDigest", [](DescribedVm& vm) { ++vm.parts.head.layout_digest; }},
    {"PidfdAmongThem",
     [](DescribedVm& vm) {
       vm.parts.AddEntry(REHOME_FD_PEER_PIDFD);
       vm.fds.push_back(MakeMemfd());
       vm.Update();
     }},
};

INSTANTIATE_TEST_SUITE_P(All, SocketVmmLinkBadHandIns, testing::ValuesIn(kBadHandIns),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(SocketVmmLinkHostileTest, AnAnswerToAnotherRequestIsNoHandIn) {
  auto asked = Async([&] { return link_->HandIn("m-1", kPatience); });
  FakeAgent::Received request = agent_.Receive();
  request.header.type = REHOME_MSG_DESCRIBE;
  agent_.Reply(request, MakeDescribedVm());
  EXPECT_EQ(ReasonOf(asked.get().status()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(agent_.AwaitEnd());
}

TEST_F(SocketVmmLinkHostileTest, ASecondAnswerEndsTheConnection) {
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  FakeAgent::Received request = agent_.Receive();
  ASSERT_TRUE(agent_.Reply(request));
  EXPECT_TRUE(started.get().ok());
  agent_.Reply(request);
  EXPECT_TRUE(agent_.AwaitEnd());
  EXPECT_TRUE(link_->closed());
}

TEST_F(SocketVmmLinkHostileTest, AnAnswerWithAPayloadWhereNoneBelongsEndsTheConnection) {
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_TRUE(agent_.Reply(agent_.Receive(), Bytes(1)));
  EXPECT_EQ(ReasonOf(started.get()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(agent_.AwaitEnd());
}

TEST_F(SocketVmmLinkHostileTest, AViolationHurtsNoOtherConnection) {
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

TEST_F(SocketVmmLinkHostileTest, EveryCallEndsWhenTheVmmClosesItsConnection) {
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

TEST_F(SocketVmmLinkHostileTest, EveryCallEndsWhenTheVmmsProcessDies) {
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

TEST_F(SocketVmmLinkHostileTest, EveryCallHasADeadlineAndALateAnswerIsDropped) {
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

TEST_F(SocketVmmLinkHostileTest, AnInterruptEndsACallThatWaits) {
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

// What it owes it may owe for ever; on its next connection it can be asked again.
TEST_F(SocketVmmLinkHostileTest, AVmmThatOwesTooManyAnswersLosesItsConnection) {
  for (size_t i = 0; i < kMaxPendingCalls; ++i) {
    EXPECT_EQ(ReasonOf(link_->Start("m-1", milliseconds(0))), "AGENT_TIMEOUT");
  }
  const absl::Status status = link_->Start("m-1", milliseconds(0));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "AGENT_STALLED");
  EXPECT_TRUE(link_->closed());
  EXPECT_EQ(ReasonOf(link_->Start("m-1", milliseconds(0))), "AGENT_STALLED");
}

TEST_F(SocketVmmLinkHostileTest, AVmmThatNeverReadsIsStalledAndNobodyBlocks) {
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

TEST_F(SocketVmmLinkHostileTest, CloseEndsCallsAndWaits) {
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

}  // namespace
}  // namespace rehome
