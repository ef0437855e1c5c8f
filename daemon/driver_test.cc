// SPDX-License-Identifier: Apache-2.0
#include "daemon/driver.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/testing/fake_effects.h"
#include "daemon/testing/memory_journal.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

const std::vector<Effect> kHappyPath = {
    Effect::kRunPreflight, Effect::kLaunchTarget,  Effect::kPrepareTarget, Effect::kArm,
    Effect::kHandOver,     Effect::kAwaitFirstRun, Effect::kFenceSource};
const std::vector<Effect> kBeforeBlackout = {Effect::kRunPreflight, Effect::kLaunchTarget,
                                             Effect::kPrepareTarget, Effect::kArm};

class DriverTest : public testing::Test {
 protected:
  DriverTest() : interrupt_(*Interrupt::Create()), effects_(fake_.Create("")) {
    record_.id = "m-0123456789abcdef";
    record_.boot_id = "this-boot";
    record_.revision = 1;
    EXPECT_TRUE(journal_.Append(record_).ok());
  }

  Migration Run() {
    return Drive(record_, Event::kAdmitted, {},
                 {&journal_, effects_.get(), interrupt_.get(),
                  [this](const Migration& record) { published_.push_back(record); }});
  }
  std::vector<Effect> performed() const { return fake_.PerformedBy(record_.id); }
  // Makes `effect` answer `event` with the reason "SOME_CAUSE".
  void Answer(Effect effect, Event event) {
    fake_.On(effect, [event](const Migration& record, Interrupt&) {
      return FailureOutcome(event, "SOME_CAUSE", record);
    });
  }

  std::unique_ptr<Interrupt> interrupt_;
  FakeEffects fake_;
  std::unique_ptr<MigrationEffects> effects_;
  MemoryJournal journal_;
  Migration record_;
  std::vector<Migration> published_;
};

TEST_F(DriverTest, PerformsTheStepsInOrderAndSucceeds) {
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_EQ(done.owner, GuestOwner::kTarget);
  EXPECT_GT(done.end_time_unix_ns, 0);
  EXPECT_EQ(performed(), kHappyPath);
}

TEST_F(DriverTest, EveryTransitionIsJournalledBeforeItsEffectAndPublishedAfter) {
  for (Effect effect : kHappyPath) {
    fake_.On(effect, [this, effect](const Migration& record, Interrupt&) {
      EXPECT_EQ(journal_.Appended().back(), record) << EffectName(effect);
      EXPECT_EQ(published_.back(), record);
      return HappyOutcome(effect, record);
    });
  }
  const Migration done = Run();
  std::vector<Migration> journalled = journal_.Appended(record_.id);
  journalled.erase(journalled.begin());  // the admission
  EXPECT_EQ(journalled, published_);
  EXPECT_EQ(published_.back(), done);
  EXPECT_EQ(published_.size(), kHappyPath.size() + 1);
}

TEST_F(DriverTest, WhatAnEffectLearnedIsInTheNextRecord) {
  fake_.On(Effect::kRunPreflight, [](const Migration& record, Interrupt&) {
    Outcome outcome = HappyOutcome(Effect::kRunPreflight, record);
    outcome.update.vcpu_count = 4;
    return outcome;
  });
  Run();
  EXPECT_EQ(journal_.Appended()[2].vcpu_count, 4u);
  EXPECT_EQ(journal_.Appended()[2].preflight.size(), 1u);
}

TEST_F(DriverTest, AnEffectCannotChangeWhatTheMachineDecides) {
  fake_.On(Effect::kRunPreflight, [](const Migration& record, Interrupt&) {
    Outcome outcome = HappyOutcome(Effect::kRunPreflight, record);
    outcome.update = {};
    outcome.update.owner = GuestOwner::kNobody;
    outcome.update.state = MigrationState::kSucceeded;
    outcome.update.step = Step::kFencing;
    outcome.update.failure.reason = "MADE_UP";
    return outcome;
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_EQ(performed(), kHappyPath);
  EXPECT_EQ(done.id, record_.id);
  EXPECT_EQ(done.boot_id, record_.boot_id);
}

TEST_F(DriverTest, ARefusalAtAnyStepBeforeTheBlackoutDiscardsTheTargetAndLeavesTheSource) {
  for (size_t i = 0; i < kBeforeBlackout.size(); ++i) {
    record_.id = "m-" + std::to_string(i);
    Answer(kBeforeBlackout[i], Event::kRefused);
    const Migration done = Run();
    SCOPED_TRACE(EffectName(kBeforeBlackout[i]));
    EXPECT_EQ(done.state, MigrationState::kFailed);
    EXPECT_EQ(done.owner, GuestOwner::kSource);
    EXPECT_EQ(done.failure.reason, "SOME_CAUSE");
    std::vector<Effect> expected(kBeforeBlackout.begin(), kBeforeBlackout.begin() + i + 1);
    expected.push_back(Effect::kDiscardTarget);
    EXPECT_EQ(performed(), expected);
    const Effect effect = kBeforeBlackout[i];
    fake_.On(effect, [effect](const Migration& r, Interrupt&) { return HappyOutcome(effect, r); });
  }
}

TEST_F(DriverTest, AnAbortedVerdictAwaitsTheSourceAndThenDiscardsTheTarget) {
  Answer(Effect::kHandOver, Event::kVerdictAborted);
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.owner, GuestOwner::kSource);
  const std::vector<Effect> effects = performed();
  EXPECT_EQ(std::vector<Effect>(effects.end() - 3, effects.end()),
            (std::vector<Effect>{Effect::kHandOver, Effect::kAbort, Effect::kDiscardTarget}));
}

TEST_F(DriverTest, AnInterruptBeforeTheStartPerformsNothing) {
  interrupt_->Raise(StopCause::kCancelled);
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kCancelled);
  EXPECT_TRUE(done.cancel_requested);
  EXPECT_TRUE(performed().empty());
}

TEST_F(DriverTest, TheCauseOfTheInterruptIsTheReasonAndDecidesTheOutcome) {
  const struct {
    StopCause cause;
    MigrationState state;
    std::string_view reason;
  } cases[] = {
      {StopCause::kCancelled, MigrationState::kCancelled, reason::kCancelled},
      {StopCause::kDeadline, MigrationState::kFailed, reason::kDeadlineExceeded},
      {StopCause::kShutdown, MigrationState::kFailed, reason::kShuttingDown},
  };
  for (const auto& one : cases) {
    for (Effect at : {Effect::kRunPreflight, Effect::kLaunchTarget, Effect::kPrepareTarget,
                      Effect::kArm, Effect::kHandOver}) {
      SCOPED_TRACE(std::string(one.reason) + " in " + EffectName(at));
      interrupt_ = *Interrupt::Create();
      record_.id += "x";
      // The stop comes while the effect runs; the effect gives up, as the fake does by default.
      FakeEffects fake;
      effects_ = fake.Create("");
      fake.HoldAt(at);
      std::thread stopper([&] {
        fake.AwaitHeld(at);
        interrupt_->Raise(one.cause);
      });
      const Migration done = Run();
      stopper.join();
      EXPECT_EQ(done.state, one.state);
      EXPECT_EQ(done.failure.reason, one.reason);
      EXPECT_EQ(done.owner, GuestOwner::kSource);
      EXPECT_EQ(fake.PerformedBy(record_.id).back(), Effect::kDiscardTarget);
      effects_.reset();
    }
  }
}

TEST_F(DriverTest, AStopThatAnEffectDidNotNoticeStillKeepsTheNextOneFromRunning) {
  fake_.On(Effect::kArm, [this](const Migration& record, Interrupt&) {
    interrupt_->Raise(StopCause::kDeadline);
    return HappyOutcome(Effect::kArm, record);
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kDeadlineExceeded);
  EXPECT_EQ(performed().back(), Effect::kDiscardTarget);
  for (Effect effect : performed()) EXPECT_NE(effect, Effect::kHandOver);
}

TEST_F(DriverTest, AStopAfterTheVerdictChangesNothing) {
  fake_.On(Effect::kHandOver, [this](const Migration& record, Interrupt&) {
    interrupt_->Raise(StopCause::kCancelled);
    return HappyOutcome(Effect::kHandOver, record);
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_TRUE(done.cancel_requested);
}

// Appends are numbered from 1 (the transition to kPreflight); the admission is on record already.
class JournalFailureTest : public DriverTest, public testing::WithParamInterface<int> {};

TEST_P(JournalFailureTest, OneFailedAppendBeforeTheBlackoutRollsBackWithTheGuestOnTheSource) {
  int appends = 0;
  journal_.FailAppends([&](const Migration&) {
    return ++appends == GetParam() ? MemoryJournal::Full() : absl::OkStatus();
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.owner, GuestOwner::kSource);
  EXPECT_EQ(done.failure.reason, reason::kJournalFull);
  EXPECT_TRUE(done.journal_failure.none()) << "the rollback itself is on record";
  std::vector<Effect> expected(kBeforeBlackout.begin(), kBeforeBlackout.begin() + GetParam() - 1);
  if (GetParam() > 1) expected.push_back(Effect::kDiscardTarget);
  EXPECT_EQ(performed(), expected) << "what could not be announced was not done";
}

TEST_P(JournalFailureTest, AJournalThatStaysFullBeforeTheBlackoutRollsBackUnrecorded) {
  int appends = 0;
  journal_.FailAppends([&](const Migration&) {
    return ++appends >= GetParam() ? MemoryJournal::Full() : absl::OkStatus();
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.failure.reason, reason::kJournalFull);
  EXPECT_EQ(done.journal_failure.reason, reason::kJournalFull);
  for (Effect effect : performed()) EXPECT_NE(effect, Effect::kHandOver);
}

INSTANTIATE_TEST_SUITE_P(EveryAppendUpToStart, JournalFailureTest, testing::Range(1, 6));

class LateJournalFailureTest : public JournalFailureTest {};

TEST_P(LateJournalFailureTest, FromTheBlackoutOnTheMigrationGoesOnAndSaysWhatIsNotOnRecord) {
  int appends = 0;
  journal_.FailAppends([&](const Migration&) {
    return ++appends == GetParam() ? MemoryJournal::Full() : absl::OkStatus();
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kSucceeded);
  EXPECT_TRUE(done.failure.none());
  EXPECT_EQ(done.journal_failure.reason, reason::kJournalFull);
  EXPECT_EQ(performed(), kHappyPath);
}

INSTANTIATE_TEST_SUITE_P(EveryAppendAfterStart, LateJournalFailureTest, testing::Range(6, 9));

// A later daemon must be able to tell who took the verdict, and which process is the new target.
TEST_F(DriverTest, ARescueThatCannotBeJournalledIsNotBegunAndTheGuestIsKept) {
  const struct {
    Step step;
    Effect not_performed;
  } cases[] = {{Step::kRescuing, Effect::kBuildRescue},
               {Step::kRescueHandingOver, Effect::kHandOverToRescue}};
  for (const auto& one : cases) {
    SCOPED_TRACE(StepName(one.step));
    record_.id += "x";
    Answer(Effect::kHandOver, Event::kStuck);
    Answer(Effect::kAbort, Event::kStranded);
    fake_.On(Effect::kBuildRescue, [](const Migration& record, Interrupt&) {
      return Outcome{Event::kTargetPrepared, {}, record};
    });
    journal_.FailAppends([&](const Migration& record) {
      return record.step == one.step ? MemoryJournal::Full() : absl::OkStatus();
    });
    const Migration done = Run();
    EXPECT_EQ(done.state, MigrationState::kIndeterminate);
    EXPECT_EQ(done.step, Step::kUnresolved) << "a resolve tries again";
    EXPECT_EQ(done.journal_failure.reason, reason::kJournalFull) << "look at the disk";
    if (one.step == Step::kRescueHandingOver) {
      ASSERT_EQ(done.rescue.failed_attempts.size(), 1u) << "and why";
      EXPECT_EQ(done.rescue.failed_attempts[0].reason, reason::kJournalFull);
    }
    EXPECT_EQ(journal_.Appended(record_.id).back(), done);
    for (Effect effect : performed()) EXPECT_NE(effect, one.not_performed);
  }
}

// An earlier daemon's, of which nobody can have the guest again, and the source's VMM lives.
TEST_F(DriverTest, ASourceIsNotEndedForALossThatCouldNotBeJournalled) {
  record_.step = Step::kHandingOver;
  record_.state = MigrationState::kHandingOver;
  record_.owner = GuestOwner::kUndecided;
  record_.source = {.pid = 10, .start_ticks = 1};
  fake_.On(Effect::kRecover, [](const Migration& record, Interrupt&) {
    Outcome outcome = FailureOutcome(Event::kSourceLost, "GUEST_LOST", record);
    outcome.update.fence.kernel_vm_dead = true;
    outcome.update.fence.source = record.source;
    return outcome;
  });
  fake_.On(Effect::kDiscardTarget, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kTargetDiscarded, {}, record};
  });
  const auto recover = [this] {
    return Drive(record_, Event::kDaemonRestarted, {"DAEMON_RESTARTED", ""},
                 {&journal_, effects_.get(), interrupt_.get(), [](const Migration&) {}});
  };
  journal_.FailAppends([](const Migration& record) {
    return record.step == Step::kDiscardingTarget ? MemoryJournal::Full() : absl::OkStatus();
  });
  const Migration undecided = recover();
  EXPECT_EQ(undecided.state, MigrationState::kIndeterminate);
  EXPECT_EQ(undecided.journal_failure.reason, reason::kJournalFull);
  EXPECT_EQ(performed(), std::vector<Effect>{Effect::kRecover});

  record_.id += "x";
  journal_.FailAppends([](const Migration&) { return absl::OkStatus(); });
  EXPECT_EQ(recover().state, MigrationState::kFailed);
  EXPECT_EQ(performed(), (std::vector<Effect>{Effect::kRecover, Effect::kDiscardTarget}));
}

TEST_F(DriverTest, AnEventThatTheStepDoesNotKnowFailsTheMigrationSafely) {
  const struct {
    Effect effect;
    MigrationState state;
    GuestOwner owner;
  } cases[] = {
      {Effect::kRunPreflight, MigrationState::kFailed, GuestOwner::kSource},
      {Effect::kLaunchTarget, MigrationState::kFailed, GuestOwner::kSource},
      {Effect::kPrepareTarget, MigrationState::kFailed, GuestOwner::kSource},
      {Effect::kArm, MigrationState::kFailed, GuestOwner::kSource},
      {Effect::kHandOver, MigrationState::kFailed, GuestOwner::kSource},
      {Effect::kAwaitFirstRun, MigrationState::kFailed, GuestOwner::kTarget},
      {Effect::kFenceSource, MigrationState::kFailed, GuestOwner::kTarget},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(EffectName(one.effect));
    FakeEffects fake;
    effects_ = fake.Create("");
    record_.id += "x";
    fake.On(one.effect, [](const Migration& record, Interrupt&) {
      return Outcome{Event::kAdmitted, {}, record};
    });
    const Migration done = Run();
    EXPECT_EQ(done.state, one.state);
    EXPECT_EQ(done.owner, one.owner);
    EXPECT_EQ(done.failure.reason, reason::kIllegalTransition);
    effects_.reset();
  }
}

TEST_F(DriverTest, AFenceWithoutProofIsNoSuccess) {
  fake_.On(Effect::kFenceSource, [](const Migration& record, Interrupt&) {
    return Outcome{Event::kFenceProven, {}, record};
  });
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kFailed);
  EXPECT_EQ(done.owner, GuestOwner::kTarget);
  EXPECT_EQ(done.failure.reason, reason::kSuccessWithoutProof);
}

TEST_F(DriverTest, AnAbortThatReachesNobodyEndsIndeterminate) {
  Answer(Effect::kHandOver, Event::kStuck);
  Answer(Effect::kAbort, Event::kUnreachable);
  const Migration done = Run();
  EXPECT_EQ(done.state, MigrationState::kIndeterminate);
  EXPECT_EQ(done.owner, GuestOwner::kUndecided);
}

}  // namespace
}  // namespace rehome
