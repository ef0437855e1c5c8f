// SPDX-License-Identifier: Apache-2.0
//
// From RUNNING to the end of the source, and what an abort leaves: proofs, and nothing held.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "daemon/machine.h"
#include "daemon/migration_effects.h"
#include "daemon/process_identity.h"
#include "daemon/testing/armed_fixture.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"
#include "vmm/agent/trace.h"

namespace rehome {
namespace {

TEST_F(HandoverTest, FirstRunNeedsTheTargetsWord) {
  Arm(FencePolicy::kAfterResume);
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kUnreachable);
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
  EXPECT_EQ(world_.vms.LinkOf("vm-1")->get(), world_.target.get());
}

// It leaves as soon as it has said so; what it said counts, and nothing is waited for.
TEST_F(HandoverTest, AFirstRunThatFailedEndsTheWaitAtOnce) {
  Arm(FencePolicy::kAfterResume);
  world_.target->Send({LinkEvent::Kind::kFirstRunFailed, "m-1", "KVM_RUN: EFAULT"});
  const Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kTargetLost);
  EXPECT_EQ(outcome.cause.reason, "FIRST_RUN_FAILED");
  EXPECT_TRUE(world_.target_child.alive()) << "its end was not waited for";
}

// The event went with the connection; the target that comes back is asked.
TEST_F(HandoverTest, ATargetThatLosesItsConnectionAfterRunningIsMetAgain) {
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

TEST_F(HandoverTest, ATargetThatComesBackAndHasNotRunIsWaitedFor) {
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

TEST_F(HandoverTest, AProofThatTheTargetMadeItselfIsOnRecordAsTheTargets) {
  Arm(FencePolicy::kBeforeResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  rehome_block_set_fence_proven(&block_);
  EffectsWorld::WalkOn(block_, REHOME_VERDICT_RUNNING);
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  const Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kFirstRunSeen);
  EXPECT_TRUE(outcome.update.fence.stopped_before_resume);
  EXPECT_EQ(outcome.update.fence.stop_observer.role, "target");
  EXPECT_EQ(outcome.update.fence.stop_observer.process, record_.target);
}

TEST_F(HandoverTest, AProofThatTheDaemonMadeIsNotTheTargetsAndWithoutOneThereIsNone) {
  Arm(FencePolicy::kBeforeResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING);
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_FALSE(outcome.update.fence.stopped_before_resume) << "the word was never PROVEN";
  EXPECT_EQ(outcome.update.fence.stop_observer.role, "");

  rehome_block_set_fence_proven(&block_);
  record_.fence.stopped_before_resume = true;
  record_.fence.stop_observer = {"rehomed", IdentifySelf()};
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.update.fence.stop_observer.role, "rehomed");
}

// Its VM would have gone to the target, which waits for the proof.
TEST_F(HandoverTest, AProofThatAnAbortAnnouncesIsTheDaemons) {
  Arm(FencePolicy::kBeforeResume);
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_COMMITTED);
  world_.source_child.Kill();
  std::thread target([this] {
    if (rehome_block_wait_fence_proven(&block_, rehome_monotonic_ns() + 20'000'000'000) == 0) {
      EffectsWorld::WalkOn(block_, REHOME_VERDICT_RUNNING);
    }
  });
  const Outcome outcome = world_.Perform(Effect::kAbort, record_);
  target.join();
  EXPECT_EQ(outcome.event, Event::kVerdictRunning);
  EXPECT_TRUE(outcome.update.fence.stopped_before_resume);
  EXPECT_EQ(outcome.update.fence.stop_observer.role, "rehomed");
}

// The kernel's word stands above the verdict, and above what the target says.
TEST_F(HandoverTest, ATargetThatRunsWithoutAMoveIsNoSuccess) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  record_.step = Step::kFirstRun;
  record_.owner = GuestOwner::kTarget;
  EffectsWorld::WalkTo(block_, REHOME_VERDICT_RUNNING);
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "VM_NOT_MOVED");
  EXPECT_FALSE(outcome.update.fence.kernel_vm_dead);
  EXPECT_TRUE(world_.source_child.alive()) << "ended before its answer is in the journal";

  absl::StatusOr<Advanced> fencing = Advance(outcome.update, outcome.event, outcome.cause, {});
  ASSERT_TRUE(fencing.ok()) << fencing.status();
  ASSERT_EQ(fencing->effect, Effect::kFenceSource);
  outcome = world_.Perform(Effect::kFenceSource, fencing->record);
  EXPECT_FALSE(world_.source_child.alive()) << "after RUNNING it must not run";
  EXPECT_TRUE(world_.target_child.alive());
  fencing = Advance(outcome.update, outcome.event, outcome.cause, {});
  ASSERT_TRUE(fencing.ok()) << fencing.status();
  EXPECT_EQ(fencing->record.state, MigrationState::kFailed);
  EXPECT_EQ(fencing->record.owner, GuestOwner::kTarget);
  EXPECT_EQ(fencing->record.failure.reason, "VM_NOT_MOVED");
}

TEST_F(HandoverTest, ASilentTargetThatNeverMovedTheGuestIsToldFromOneThatIsSlow) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  const Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "VM_NOT_MOVED");
}

// The daemon that asked first has ended before the answer was in the journal.
TEST_F(HandoverTest, ADaemonThatTookOverInFencingAsksTheSourceAgain) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "VM_NOT_MOVED");
  EXPECT_FALSE(world_.source_child.alive());
}

TEST_F(HandoverTest, ASourceThatLosesItsConnectionIsMetAgainAndAsked) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  world_.source->Close();
  const auto again =
      std::make_shared<FakeVmmLink>(world_.source->process(), world_.source->hello());
  again->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  world_.source = again;
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).cause.reason, "VM_NOT_MOVED");
}

TEST_F(HandoverTest, ADeadVmIsProofOfTheMoveAndASilentSourceIsNoDoubt) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);  // probe is not scripted
  EXPECT_EQ(outcome.event, Event::kFirstRunSeen);
  EXPECT_FALSE(outcome.update.fence.kernel_vm_dead);

  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_dead = true}; };
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kFirstRunSeen);
  EXPECT_TRUE(outcome.update.fence.kernel_vm_dead);
  EXPECT_EQ(outcome.update.fence.kernel_observer, (Observer{"source", record_.source}));
}

TEST_F(HandoverTest, TheWordOfAnOldAgentIsNotTheKernels) {
  Arm(FencePolicy::kAfterResume);
  record_.strategy = Strategy::kLinkMove;
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{}; };
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  const Outcome outcome = world_.Perform(Effect::kAwaitFirstRun, record_);
  EXPECT_EQ(outcome.event, Event::kFirstRunSeen);
  EXPECT_FALSE(outcome.update.fence.kernel_vm_dead);
}

TEST_F(HandoverTest, WithoutMoveALivingVmOfTheSourceMeansNothing) {
  Arm(FencePolicy::kAfterResume);
  world_.source->script.probe = [](const std::string&) { return VmmLink::Probe{.vm_alive = true}; };
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
}

TEST_F(HandoverTest, ATargetThatDiedAfterRunningIsLost) {
  Arm(FencePolicy::kAfterResume);
  world_.target_child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kTargetLost);
}

TEST_F(HandoverTest, FenceIsProvenOnlyWhenTheSourceIsGoneAndNobodyHoldsTheMemory) {
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

TEST_F(HandoverTest, ASearchThatFailsForAMomentIsMadeAgain) {
  Arm(FencePolicy::kAfterResume);
  int searches = 0;
  world_.fence.on_search = [&] {
    world_.fence.search_status = searches++ == 0 ? absl::UnknownError("no descriptor left")  //
                                                 : absl::OkStatus();
  };
  EXPECT_EQ(world_.Perform(Effect::kFenceSource, record_).event, Event::kFenceProven);
  EXPECT_EQ(searches, 2);
}

TEST_F(HandoverTest, ASourceThatIsGoneNeedNotBeKilled) {
  Arm(FencePolicy::kAfterResume);
  world_.source_child.Kill();
  EXPECT_EQ(world_.Perform(Effect::kFenceSource, record_).event, Event::kFenceProven);
  EXPECT_EQ(world_.fence.kills, 0);
}

TEST_F(HandoverTest, AFirstRunIsWaitedForAgainIfItCouldNotBeForAMoment) {
  Arm(FencePolicy::kAfterResume);
  world_.target->Send({LinkEvent::Kind::kFirstRun, "m-1", ""});
  int waits = 0;
  world_.target->script.await_event = [&] {
    return waits++ == 0 ? absl::ResourceExhaustedError("no descriptor left") : absl::OkStatus();
  };
  EXPECT_EQ(world_.Perform(Effect::kAwaitFirstRun, record_).event, Event::kFirstRunSeen);
}

TEST_F(HandoverTest, AForeignHolderMakesTheFenceIncomplete) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.foreign = {{.pid = 1, .command = "leak", .how = "fd"}};
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "MEMORY_STILL_HELD");
  EXPECT_FALSE(outcome.update.fence.complete(outcome.update.memory_inodes));
}

TEST_F(HandoverTest, ASearchThatDoesNotEvenFindTheTargetProvesNothing) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.allowed_holds = false;
  const Outcome outcome = world_.Perform(Effect::kFenceSource, record_);
  EXPECT_EQ(outcome.event, Event::kFenceIncomplete);
  EXPECT_EQ(outcome.cause.reason, "MEMORY_NOT_FOUND");
  EXPECT_FALSE(outcome.update.fence.complete(outcome.update.memory_inodes));
}

TEST_F(HandoverTest, ATargetThatWasExitingDuringTheSearchIsLost) {
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

TEST_F(HandoverTest, AProcFilesystemThatCannotBeReadProvesNothing) {
  Arm(FencePolicy::kAfterResume);
  world_.fence.search_status =
      MakeStatus(absl::StatusCode::kUnknown, "HOLDERS_UNREADABLE", "pid 7");
  EXPECT_EQ(world_.Perform(Effect::kFenceSource, record_).event, Event::kFenceIncomplete);
}

TEST_F(HandoverTest, DiscardKillsTheTargetAndSparesTheSource) {
  Arm(FencePolicy::kAfterResume);
  EXPECT_EQ(world_.Perform(Effect::kDiscardTarget, record_).event, Event::kTargetDiscarded);
  EXPECT_FALSE(world_.target_child.alive());
  EXPECT_TRUE(world_.source_child.alive());
  const std::vector<std::string> calls = world_.source->calls();
  EXPECT_NE(std::find(calls.begin(), calls.end(), "CANCEL m-1"), calls.end());
}

TEST_F(HandoverTest, ATargetThatHadNothingOfTheGuestIsNotSearchedFor) {
  record_ = world_.Perform(Effect::kRunPreflight, world_.NewRecord()).update;
  record_ = world_.Perform(Effect::kLaunchTarget, record_).update;
  const size_t searches = world_.fence.searched.size();
  EXPECT_EQ(world_.Perform(Effect::kDiscardTarget, record_).event, Event::kTargetDiscarded);
  EXPECT_EQ(world_.fence.searched.size(), searches);
}

// A grandchild of the target's that has one of its memory descriptors, say.
TEST_F(HandoverTest, WhoStillHoldsTheMemoryAfterARollbackIsOnRecordAndFailsNothing) {
  Arm(FencePolicy::kAfterResume);
  const InodeHolder leak{.pid = 77, .command = "helper", .how = "fd"};
  world_.fence.foreign = {leak};
  bool target_was_gone = false, store_was_closed = false;
  world_.fence.on_search = [&] {
    target_was_gone = !world_.target_child.alive();
    store_was_closed = world_.store.removed_for_sure;
  };
  const Outcome outcome = world_.Perform(Effect::kDiscardTarget, record_);
  EXPECT_EQ(outcome.event, Event::kTargetDiscarded);
  EXPECT_TRUE(target_was_gone && store_was_closed) << "or they are found themselves";
  EXPECT_EQ(outcome.update.fence.search.Foreign(), std::vector<InodeHolder>{leak});
  for (const InodeSearch& found : outcome.update.fence.search.memory) {
    EXPECT_EQ(found.holders, std::vector<InodeHolder>{leak}) << "the source may hold it";
  }
}

TEST_F(HandoverTest, ARollbackThatFindsNobodyOrCannotLookSaysNothing) {
  Arm(FencePolicy::kAfterResume);
  Outcome outcome = world_.Perform(Effect::kDiscardTarget, record_);
  EXPECT_EQ(outcome.event, Event::kTargetDiscarded);
  EXPECT_FALSE(world_.fence.searched.empty());
  EXPECT_EQ(outcome.update.fence, FenceProof{});
  world_.fence.search_status =
      MakeStatus(absl::StatusCode::kUnknown, "HOLDERS_UNREADABLE", "pid 7");
  outcome = world_.Perform(Effect::kDiscardTarget, record_);
  EXPECT_EQ(outcome.event, Event::kTargetDiscarded);
}

size_t OpenFds() {
  size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) != -1 ? 1 : 0;
  return count;
}

TEST_F(HandoverTest, TheManagerHasClosedTheEscrowBeforeTheMemoryIsSearchedFor) {
  Arm(FencePolicy::kAfterResume);
  ASSERT_FALSE(world_.store.stored.empty());
  bool was_removed = false;
  world_.fence.on_search = [&] { was_removed = world_.store.removed_for_sure; };
  (void)world_.Perform(Effect::kFenceSource, record_);
  EXPECT_TRUE(was_removed) << "or the manager is found among the holders";
}

TEST_F(HandoverTest, NoMemoryFdOutlivesTheFence) {
  Arm(FencePolicy::kAfterResume);
  const size_t before = OpenFds();
  (void)world_.Perform(Effect::kFenceSource, record_);
  // VM and memory of source and target, and the block; in the store VM and memory, which are the
  // same open files here, block, description.
  EXPECT_EQ(OpenFds(), before - 9);
}

// What a VMM does, and what the daemon lets go of, after the last effect and until the record is
// terminal belongs to the trace.
TEST_F(HandoverTest, ATraceEndsWithTheMigrationAndNotWithItsLastEffect) {
  std::vector<MigrationTrace> kept;
  EffectDependencies dependencies = world_.Dependencies();
  dependencies.keep_trace = [&](const std::string& id, const MigrationTrace& trace) {
    EXPECT_EQ(id, "m-1");
    kept.push_back(trace);
  };
  world_.factory = NewMigrationEffectsFactory(dependencies);
  world_.effects = world_.factory->Create("m-1");
  rehome_trace* const vmm = rehome_trace_new();
  world_.source->script.offer_trace = [&](BorrowedFd area) {
    EXPECT_EQ(rehome_trace_open(vmm, area.raw()), 0);
    rehome_trace_start(vmm);
    return absl::OkStatus();
  };
  Arm(FencePolicy::kAfterResume);
  const Outcome last = world_.Perform(Effect::kDiscardTarget, record_);
  EXPECT_EQ(last.event, Event::kTargetDiscarded);
  EXPECT_TRUE(kept.empty()) << "its terminal record is not written yet";

  const uint64_t now = rehome_monotonic_ns();
  rehome_trace_record(vmm, REHOME_TRACE_KVM_GET_MSRS, 0, now - 2 * REHOME_TRACE_THRESHOLD_NS, now);
  world_.effects->End(last.update);
  rehome_trace_free(vmm);
  ASSERT_EQ(kept.size(), 1u);
  ASSERT_EQ(kept[0].source.calls.size(), 1u);
  EXPECT_EQ(kept[0].source.calls[0].end_ns, now);
  ASSERT_GE(kept[0].steps.size(), 2u);
  const TraceStep& done = kept[0].steps.back();
  EXPECT_EQ(done.step, Step::kDone);
  EXPECT_EQ(done.begin_ns, kept[0].steps[kept[0].steps.size() - 2].end_ns);
  EXPECT_GE(done.end_ns, now);
}

}  // namespace
}  // namespace rehome
