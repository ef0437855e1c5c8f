// SPDX-License-Identifier: Apache-2.0
//
// The daemon's calls against a VMM that answers as it should, and what it reports by itself.
#include "daemon/socket_vmm_link.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/testing/link_fixture.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using testing_support::BytesOf;
using testing_support::DescribedVm;
using testing_support::FakeAgent;
using testing_support::kPatience;
using testing_support::MakeDescribedVm;
using testing_support::MakeHandedIn;

class SocketVmmLinkTest : public testing_support::LinkFixture {};

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
    return link_->ArmSource({.migration_id = "m-1",
                             .layout_digest = 0x77,
                             .state_format = 3,
                             .block = block_.borrow(),
                             .target_pidfd = link_->pidfd()},
                            kPatience, nullptr);
  });
  FakeAgent::Received request = agent_.Receive();
  EXPECT_EQ(request.header.type, REHOME_MSG_ARM_SOURCE);
  ASSERT_EQ(request.payload.size(), sizeof(rehome_arm_source));
  EXPECT_EQ(request.As<rehome_arm_source>().arm.layout_digest, 0x77u);
  EXPECT_EQ(request.As<rehome_arm_source>().state_format, 3u);
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
  EXPECT_FALSE(probe->vm_dead);
  EXPECT_TRUE(probe->guest_running);
}

TEST_F(SocketVmmLinkTest, AVmThatCouldNotBeProbedIsNeitherAliveNorDead) {
  auto probed = Async([&] { return link_->ProbeVm("m-1", kPatience); });
  ASSERT_TRUE(agent_.Refuse(agent_.Receive(), REHOME_REFUSED_KERNEL, "EINTR"));
  EXPECT_EQ(ReasonOf(probed.get().status()), "AGENT_REFUSED_KERNEL");
}

TEST_F(SocketVmmLinkTest, GetsBackWhatEitherSideHandsIn) {
  for (const bool is_source : {true, false}) {
    auto asked = Async([&] { return link_->HandIn("m-1", kPatience); });
    FakeAgent::Received request = agent_.Receive();
    EXPECT_EQ(request.header.type, REHOME_MSG_HAND_IN);
    EXPECT_STREQ(request.As<rehome_migration_ref>().migration_id, "m-1");
    const DescribedVm sent = MakeHandedIn("m-1", is_source);
    ASSERT_TRUE(agent_.Reply(request, sent));
    absl::StatusOr<HandedIn> handed_in = asked.get();
    ASSERT_TRUE(handed_in.ok()) << handed_in.status();
    EXPECT_EQ(Identify(handed_in->block.borrow())->id, Identify(sent.fds.back().borrow())->id);
    ASSERT_TRUE(handed_in->vm.has_value());
    EXPECT_EQ(handed_in->vm->memory.size(), 2u);
    EXPECT_TRUE(handed_in->vm->vm.valid());
    EXPECT_EQ(handed_in->vm->config.valid(), is_source);
    EXPECT_EQ(handed_in->vm->named.size(), is_source ? 2u : 0u);
  }
}

// Nobody waits for an answer, and none that an agent owes adds up.
TEST_F(SocketVmmLinkTest, OffersATraceAreaAndGoesOn) {
  for (size_t i = 0; i < 2 * kMaxPendingCalls; ++i) {
    ASSERT_TRUE(link_->OfferTrace("m-1", block_.borrow()).ok());
    FakeAgent::Received offer = agent_.Receive();
    EXPECT_EQ(offer.header.type, REHOME_MSG_TRACE);
    EXPECT_STREQ(offer.As<rehome_migration_ref>().migration_id, "m-1");
    ASSERT_EQ(offer.fds.size(), 1u);
    EXPECT_EQ(Identify(offer.fds[0].borrow())->id, Identify(block_.borrow())->id);
  }
  auto started = Async([&] { return link_->Start("m-1", kPatience); });
  ASSERT_TRUE(agent_.Reply(agent_.Receive()));
  EXPECT_TRUE(started.get().ok());
  link_->Close();
  EXPECT_FALSE(link_->OfferTrace("m-1", block_.borrow()).ok());
}

// It would be a request of the wrong side.
TEST_F(SocketVmmLinkTest, AnAgentThatOffersATraceAreaLosesItsConnection) {
  ASSERT_TRUE(agent_.Send(REHOME_MSG_TRACE, BytesOf(rehome_migration_ref{.migration_id = "m-1"})));
  EXPECT_TRUE(agent_.AwaitEnd());
}

TEST_F(SocketVmmLinkTest, AnAgentThatKnowsNoHandInIsNotAsked) {
  rehome_hello hello = testing_support::MakeHello(REHOME_ROLE_TARGET);
  hello.features &= ~REHOME_FEATURE_RECOVER;
  FakeAgent agent;
  LaunchedVmm launched = MakeLaunched(&agent);
  auto adopted = Async([&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
  ASSERT_EQ(agent.Hello(hello), REHOME_REFUSED_NONE);
  std::shared_ptr<VmmLink> link = *adopted.get();
  EXPECT_EQ(ReasonOf(link->HandIn("m-1", kPatience).status()), "AGENT_REFUSED_UNSUPPORTED");
  auto started = Async([&] { return link->Start("m-1", kPatience); });
  FakeAgent::Received next = agent.Receive();
  EXPECT_EQ(next.header.type, REHOME_MSG_START);
  ASSERT_TRUE(agent.Reply(next));
  EXPECT_TRUE(started.get().ok());
}

// It says 0 where others say what they can choose from, and knows ARM_SOURCE without a format.
TEST_F(SocketVmmLinkTest, AnAgentThatKnowsNoFormatsIsTalkedToAsBefore) {
  rehome_hello hello = testing_support::MakeHello(REHOME_ROLE_TARGET);
  hello.features &= ~REHOME_FEATURE_FORMATS;
  FakeAgent agent;
  LaunchedVmm launched = MakeLaunched(&agent);
  auto adopted = Async([&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
  ASSERT_EQ(agent.Hello(hello), REHOME_REFUSED_NONE);
  std::shared_ptr<VmmLink> link = *adopted.get();
  auto armed = Async([&] {
    return link->ArmSource({.migration_id = "m-1",
                            .state_format = 3,
                            .block = block_.borrow(),
                            .target_pidfd = link->pidfd()},
                           kPatience, nullptr);
  });
  FakeAgent::Received request = agent.Receive();
  EXPECT_EQ(request.payload.size(), sizeof(rehome_arm));
  ASSERT_TRUE(agent.Reply(request));
  EXPECT_TRUE(armed.get().ok());

  auto described = Async([&] { return link->Describe("m-1", true, kPatience, nullptr); });
  DescribedVm vm = MakeDescribedVm();
  vm.parts.head.state_format_oldest = 1;
  request = agent.Receive();
  ASSERT_TRUE(agent.Reply(request, vm));
  EXPECT_EQ(ReasonOf(described.get().status()), "AGENT_PROTOCOL_VIOLATION");
  EXPECT_TRUE(agent.AwaitEnd());
}

TEST_F(SocketVmmLinkTest, ADeadVmIsTheWordOfAnAgentThatSaysSoOfEioOnly) {
  rehome_hello older = testing_support::MakeHello(REHOME_ROLE_TARGET);
  older.features &= ~REHOME_FEATURE_EXACT;
  for (const rehome_hello& hello : {testing_support::MakeHello(REHOME_ROLE_TARGET), older}) {
    FakeAgent agent;
    LaunchedVmm launched = MakeLaunched(&agent);
    auto adopted = Async([&] { return server_->AdoptTarget(launched, kPatience, nullptr); });
    ASSERT_EQ(agent.Hello(hello), REHOME_REFUSED_NONE);
    std::shared_ptr<VmmLink> link = *adopted.get();
    auto probed = Async([&] { return link->ProbeVm("m-1", kPatience); });
    ASSERT_TRUE(agent.Reply(agent.Receive(), BytesOf(rehome_probe{})));
    absl::StatusOr<VmmLink::Probe> probe = probed.get();
    ASSERT_TRUE(probe.ok());
    EXPECT_FALSE(probe->vm_alive);
    EXPECT_EQ(probe->vm_dead, (hello.features & REHOME_FEATURE_EXACT) != 0);
  }
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

TEST_F(SocketVmmLinkTest, AnAnswerHoweverLateMakesRoomForACall) {
  for (size_t i = 0; i < kMaxPendingCalls; ++i) {
    EXPECT_EQ(ReasonOf(link_->Start("m-1", milliseconds(0))), "AGENT_TIMEOUT");
  }
  for (size_t i = 0; i < kMaxPendingCalls; ++i) ASSERT_TRUE(agent_.Reply(agent_.Receive()));
  agent_.SendEvent(REHOME_EVENT_RESUMED, "m-1");  // behind the answers
  ASSERT_TRUE(link_->AwaitEvent("m-1", {LinkEvent::Kind::kResumed}, kPatience, nullptr).ok());
  EXPECT_EQ(ReasonOf(link_->Start("m-1", milliseconds(0))), "AGENT_TIMEOUT");
  EXPECT_FALSE(link_->closed());
}

}  // namespace
}  // namespace rehome
