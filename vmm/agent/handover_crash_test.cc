// SPDX-License-Identifier: Apache-2.0
//
// Whoever dies, and whenever: the guest runs in exactly one of the living processes, or in none
// only if the process that had it is the one that died (or, with MOVE, died between MOVE and the
// first run: the saved state then waits for a rescue, and the source says so).
#include <signal.h>

#include <string>
#include <thread>
#include <tuple>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

// The source's own deadlines are far away, so that what is seen is the reaction to the death; where
// nobody else can react, the target fences after half of the second one.
constexpr uint64_t kFar = 10000 * kMs;
constexpr uint64_t kSelfFence = 400 * kMs;

struct Case {
  const char* name;
  Terms terms;
};

const Case kCases[] = {
    {"MapFenceAfter", {REHOME_STRATEGY_MAP, REHOME_FENCE_AFTER_RESUME, kFar, kFar}},
    {"MapFenceBefore", {REHOME_STRATEGY_MAP, REHOME_FENCE_BEFORE_RESUME, kFar, kSelfFence}},
    {"LinkMove", {REHOME_STRATEGY_LINK_MOVE, REHOME_FENCE_KERNEL, kFar, kFar}},
};

bool Moves(const Terms& terms) { return terms.strategy == REHOME_STRATEGY_LINK_MOVE; }
bool FencesBefore(const Terms& terms) { return terms.fence_policy == REHOME_FENCE_BEFORE_RESUME; }

std::string StepName(Step step) {
  switch (step) {
    case Step::kNone:
      return "None";
    case Step::kDescribe:
      return "Describe";
    case Step::kArmSource:
      return "ArmSource";
    case Step::kPause:
      return "Pause";
    case Step::kQuiesce:
      return "Quiesce";
    case Step::kHandedOver:
      return "HandedOver";
    case Step::kPrepare:
      return "Prepare";
    case Step::kArmTarget:
      return "ArmTarget";
    case Step::kStateSeen:
      return "StateSeen";
    case Step::kClaimed:
      return "Claimed";
    case Step::kMoved:
      return "Moved";
    case Step::kCommitted:
      return "Committed";
    case Step::kRunning:
      return "Running";
    case Step::kRan:
      return "Ran";
  }
  return "?";
}

class Crash : public testing::TestWithParam<std::tuple<Case, Step>> {
 protected:
  Crash() : handover_(terms()) { handover_.HangAt(step()); }

  const Terms& terms() const { return std::get<0>(GetParam()).terms; }
  Step step() const { return std::get<1>(GetParam()); }

  // Everything up to START, and the daemon's own fence if a later step needs it.
  void StartAndReachStep() {
    ASSERT_TRUE(handover_.Lead(Stage::kStarted));
    if (FencesBefore(terms()) && step() >= Step::kRunning) Fence();
    ASSERT_TRUE(handover_.WaitFor(step()));
  }
  void Fence() {
    ASSERT_TRUE(handover_.WaitForVerdict(REHOME_VERDICT_COMMITTED));
    ASSERT_EQ(rehome_block_condemn(&handover_.block(), REHOME_SIDE_SOURCE), 0);
    handover_.KillSource();
    rehome_block_set_fence_proven(&handover_.block());
  }
  void ExpectGuestOnSource() {
    EXPECT_TRUE(handover_.WaitUntil([&] { return handover_.page().source_runs.load() == 1; }));
    EXPECT_EQ(handover_.page().target_runs.load(), 0u);
    EXPECT_EQ(handover_.page().ran_twice.load(), 0u);
  }
  void ExpectGuestOnTarget() {
    EXPECT_TRUE(handover_.WaitUntil([&] { return handover_.page().target_runs.load() == 1; }));
    EXPECT_EQ(handover_.page().source_runs.load(), 0u);
    EXPECT_EQ(handover_.page().ran_twice.load(), 0u);
    EXPECT_EQ(handover_.page().resumes.load(), 0u);
  }

  Handover handover_;
};

std::string CrashName(const testing::TestParamInfo<std::tuple<Case, Step>>& info) {
  return std::string(std::get<0>(info.param).name) + "At" + StepName(std::get<1>(info.param));
}

// ---- the target dies ----

class TargetDiesInPreparation : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, TargetDiesInPreparation,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kPrepare, Step::kArmTarget)),
                         CrashName);

TEST_P(TargetDiesInPreparation, TheGuestNeverPauses) {
  ASSERT_TRUE(handover_.Lead(Stage::kDescribed));
  // The daemon's request hangs with the target; it is sent from here and answered by the kill.
  std::thread killer([&] {
    EXPECT_TRUE(handover_.WaitFor(step()));
    kill(handover_.target_pid(), SIGKILL);
  });
  bool prepared = handover_.Prepare();
  EXPECT_EQ(prepared, step() == Step::kArmTarget);
  if (prepared) {
    EXPECT_FALSE(handover_.ArmTarget());
  }
  killer.join();
  EXPECT_TRUE(handover_.AwaitTargetExit());
  EXPECT_EQ(handover_.source().Order(REHOME_MSG_CANCEL, kMigration), 0u);
  ExpectGuestOnSource();
  EXPECT_EQ(handover_.page().pauses.load(), 0u);
}

TEST(TargetDies, TheSourceRefusesToStartForADeadTarget) {
  Handover handover(kCases[0].terms);
  ASSERT_TRUE(handover.Lead(Stage::kSourceArmed));
  handover.KillTarget();
  EXPECT_EQ(handover.source().Order(REHOME_MSG_START, kMigration), REHOME_REFUSED_KERNEL);
  EXPECT_EQ(handover.page().pauses.load(), 0u);
}

class TargetDies : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, TargetDies,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kStateSeen, Step::kClaimed,
                                                          Step::kMoved, Step::kCommitted)),
                         CrashName);

TEST_P(TargetDies, TheSourceTakesTheGuestBackUnlessTheKernelMovedIt) {
  StartAndReachStep();
  handover_.KillTarget();
  if (Moves(terms()) && step() >= Step::kMoved) {
    EXPECT_TRUE(handover_.source().AwaitEvent(REHOME_EVENT_VM_DEAD));
    EXPECT_EQ(handover_.page().resumes.load(), 0u);
    EXPECT_NE(handover_.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
    return;
  }
  EXPECT_TRUE(handover_.source().AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(handover_.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  ExpectGuestOnSource();
}

class TargetDiesWithTheGuest : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, TargetDiesWithTheGuest,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kRunning, Step::kRan)),
                         CrashName);

TEST_P(TargetDiesWithTheGuest, TheSourceDoesNotRunAGuestOfThePast) {
  StartAndReachStep();
  handover_.KillTarget();
  if (!FencesBefore(terms())) {  // else the source is gone already
    EXPECT_TRUE(handover_.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  }
  EXPECT_EQ(handover_.page().resumes.load(), 0u);
  EXPECT_EQ(handover_.verdict(), static_cast<uint32_t>(REHOME_VERDICT_RUNNING));
}

// ---- the source dies ----

class SourceDiesWithTheGuest : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, SourceDiesWithTheGuest,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kQuiesce, Step::kPause)),
                         CrashName);

TEST_P(SourceDiesWithTheGuest, TheTargetDoesNotTakeAStateThatIsNotComplete) {
  StartAndReachStep();
  handover_.KillSource();
  EXPECT_TRUE(handover_.AwaitTargetExit());
  EXPECT_EQ(handover_.page().target_cancelled.load(), 1u);
  EXPECT_NE(handover_.page().claim_result.load(), 0);
  EXPECT_EQ(handover_.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
}

class SourceDies : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, SourceDies,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kStateSeen, Step::kClaimed,
                                                          Step::kMoved, Step::kCommitted)),
                         CrashName);

TEST_P(SourceDies, TheTargetRunsTheStateThatItLeft) {
  StartAndReachStep();
  handover_.KillSource();
  handover_.LetGo();
  ExpectGuestOnTarget();
  EXPECT_TRUE(handover_.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
}

// ---- the daemon dies ----

class DaemonDiesBefore : public testing::TestWithParam<std::tuple<Case, Stage>> {};
INSTANTIATE_TEST_SUITE_P(Stages, DaemonDiesBefore,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Stage::kConnected, Stage::kDescribed,
                                                          Stage::kPrepared, Stage::kTargetArmed,
                                                          Stage::kSourceArmed)));

TEST_P(DaemonDiesBefore, TheGuestRunsOnAndTheTargetLeaves) {
  Terms terms = std::get<0>(GetParam()).terms;
  terms.claim_timeout_ns = 10 * kMs;  // part of what an armed target waits for
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(std::get<1>(GetParam())));
  handover.CloseLinks();
  EXPECT_TRUE(handover.AwaitTargetExit());
  EXPECT_EQ(handover.page().target_cancelled.load(), 1u);
  if (std::get<1>(GetParam()) >= Stage::kDescribed) {
    EXPECT_TRUE(handover.WaitUntil([&] { return handover.page().source_cancelled.load() == 1; }));
  }
  EXPECT_EQ(handover.page().pauses.load(), 0u);
  EXPECT_EQ(handover.owners(), 1u);
}

class DaemonDiesAt : public Crash {};
INSTANTIATE_TEST_SUITE_P(Steps, DaemonDiesAt,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kQuiesce, Step::kPause,
                                                          Step::kStateSeen, Step::kClaimed,
                                                          Step::kMoved, Step::kCommitted)),
                         CrashName);

TEST_P(DaemonDiesAt, TheHandoverGoesOnWithoutIt) {
  StartAndReachStep();
  handover_.CloseLinks();
  handover_.LetGo();
  ExpectGuestOnTarget();
  if (FencesBefore(terms())) {
    EXPECT_TRUE(handover_.AwaitSourceExit());
  }
}

class DaemonDiesAndTargetHangs : public testing::TestWithParam<std::tuple<Case, Step>> {};
INSTANTIATE_TEST_SUITE_P(Steps, DaemonDiesAndTargetHangs,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Step::kStateSeen, Step::kClaimed,
                                                          Step::kMoved, Step::kCommitted)),
                         CrashName);

TEST_P(DaemonDiesAndTargetHangs, TheDeadlinesHold) {
  Terms terms = std::get<0>(GetParam()).terms;
  const Step step = std::get<1>(GetParam());
  terms.claim_timeout_ns = 20 * kMs;
  terms.resolve_timeout_ns = 40 * kMs;
  Handover handover(terms);
  handover.HangAt(step);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(step));
  handover.CloseLinks();
  if (Moves(terms) && step >= Step::kMoved) {
    // The kernel has spoken: only the target can run it, however late.
    handover.LetGo();
    EXPECT_TRUE(handover.WaitUntil([&] { return handover.page().target_runs.load() == 1; }));
  } else {
    EXPECT_TRUE(handover.WaitUntil([&] { return handover.page().resumes.load() == 1; }));
    EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
    // After the claim it may be wherever it hangs, so it had to be stopped first.
    if (step >= Step::kClaimed) {
      EXPECT_TRUE(handover.AwaitTargetExit());
    }
  }
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
  EXPECT_EQ(handover.owners(), 1u);
}

}  // namespace
}  // namespace rehome
