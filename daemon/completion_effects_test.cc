// SPDX-License-Identifier: Apache-2.0
#include "daemon/completion_effects.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "daemon/process_identity.h"
#include "daemon/testing/handover_fixture.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using CompletionTest = HandoverTest;

TEST_F(CompletionTest, FirstRunNeedsTheTargetsWord) {
  Arm(FencePolicy::kAfterResume);
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kUnreachable);
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
  EXPECT_EQ(world_.vms.LinkOf("vm-1")->get(), world_.target.get());
}

// The event went with the connection; the target that comes back is asked.
TEST_F(CompletionTest, ATargetThatLosesItsConnectionAfterRunningIsMetAgain) {
  Arm(FencePolicy::kAfterResume);
  world_.target->Close();
  const auto again =
      std::make_shared<FakeVmmLink>(world_.target->process(), world_.target->hello());
  again->script.probe = [](const std::string&) {
    return VmmLink::Probe{.vm_alive = true, .guest_running = true};
  };
  world_.target = again;
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
  EXPECT_EQ(world_.vms.LinkOf("vm-1")->get(), again.get());
}

TEST_F(CompletionTest, ATargetThatComesBackAndHasNotRunIsWaitedFor) {
  Arm(FencePolicy::kAfterResume);
  world_.target->Close();
  const auto again =
      std::make_shared<FakeVmmLink>(world_.target->process(), world_.target->hello());
  again->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  world_.target = again;
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kUnreachable);
  again->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
}

TEST_F(CompletionTest, ATargetThatDiedAfterRunningIsLost) {
  Arm(FencePolicy::kAfterResume);
  world_.target_child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kTargetLost);
}

TEST_F(CompletionTest, FenceIsProvenOnlyWhenTheSourceIsGoneAndNobodyHoldsTheMemory) {
  Arm(FencePolicy::kAfterResume);
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceProven);
  const FenceProof& proof = outcome.update.fence;
  EXPECT_TRUE(proof.complete(outcome.update.memory_inodes));
  EXPECT_EQ(proof.observer, (Observer{"rehomed", IdentifySelf()}));
  EXPECT_EQ(proof.source, record_.source);
  EXPECT_GE(proof.search.begun_ns, proof.exited_ns);
  EXPECT_FALSE(world_.source_child.alive());
  EXPECT_EQ(world_.fence.searched.size(), 1u);
}

TEST_F(CompletionTest, AForeignHolderMakesTheFenceIncomplete) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.foreign = {{.pid = 1, .command = "leak", .how = "fd"}};
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "MEMORY_STILL_HELD");
  EXPECT_FALSE(outcome.update.fence.complete(outcome.update.memory_inodes));
}

TEST_F(CompletionTest, ASearchThatDoesNotEvenFindTheTargetProvesNothing) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.allowed_holds = false;
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "MEMORY_NOT_FOUND");
  EXPECT_FALSE(outcome.update.fence.complete(outcome.update.memory_inodes));
}

TEST_F(CompletionTest, ATargetThatWasExitingDuringTheSearchIsLost) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.allowed_holds = false;
  // It exits when the effect already waits for that, or before: either way it is lost.
  std::thread killer;
  world_.fence.on_search = [&] { killer = std::thread([&] { world_.target_child.Kill(); }); };
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  killer.join();
  EXPECT_EQ(outcome.event, Event::kTargetLost);
  EXPECT_EQ(outcome.cause.reason, "TARGET_DIED");
}

TEST_F(CompletionTest, AProcFilesystemThatCannotBeReadProvesNothing) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.search_status =
      MakeStatus(absl::StatusCode::kUnknown, "HOLDERS_UNREADABLE", "pid 7");
  EXPECT_EQ(world_.Perform(Effect::kFenceSource, record_).event, Event::kFenceIncomplete);
}

TEST_F(CompletionTest, DiscardKillsTheTargetAndSparesTheSource) {
  Arm(FencePolicy::kAfterResume);
  EXPECT_EQ(world_.Perform(Effect::kDiscardTarget, record_).event, Event::kTargetDiscarded);
  EXPECT_FALSE(world_.target_child.alive());
  EXPECT_TRUE(world_.source_child.alive());
  const std::vector<std::string> calls = world_.source->calls();
  EXPECT_NE(std::find(calls.begin(), calls.end(), "CANCEL m-1"), calls.end());
}

size_t OpenFds() {
  size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) != -1 ? 1 : 0;
  return count;
}

TEST_F(CompletionTest, NoMemoryFdOutlivesTheFence) {
  Arm(FencePolicy::kAfterResume);
  const size_t before = OpenFds();
  (void)world_.Perform(Effect::kFenceSource, record_);
  // VM and memory of source and target, and the block; in the store VMs, memory, block,
  // description.
  EXPECT_EQ(OpenFds(), before - 11);
}

}  // namespace
}  // namespace rehome
