// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/handover_model.h"

#include "gtest/gtest.h"

namespace rehome::model {
namespace {

// Whose crash or hang, or which limit that docs/handover.md and docs/recovery.md name, explains
// that nobody runs the guest.
bool IsExcused(const Model& model, const Explorer& explorer, const State& s) {
  if (s.verdict == REHOME_VERDICT_RUNNING) {
    // It went with the process that had it, or stands still in it.
    return s.target_crashed || s.target_life == kHung;
  }
  // Without its own word the source is neither dead nor out: the migration is INDETERMINATE.
  if (s.source_life == kHung) return true;
  // Dead before the guest was in the block, or after it took the guest back.
  const bool source_had_it = !s.ready || s.resumed;
  if (s.source_crashed && source_had_it) return true;
  // The source can have taken the guest back before it died, and nobody is left to say: it crashed,
  // or the fence killed it while its target crashed. Not so if the target knew it dead; and if it
  // did take the guest back, whoever killed it then had no right to.
  const bool in_doubt = s.verdict == REHOME_VERDICT_ABORTED && s.source_life == kDead &&
                        s.rescues == 0 && !s.daemon_aborted && !s.blind_refusal && !s.resumed;
  if (in_doubt && (s.source_crashed || s.target_crashed)) return true;
  if (explorer.CanRescue(s)) return false;
  // Nobody is there to rescue it.
  const bool source_is_out = s.source_life == kDead || s.vm_dead;
  const bool target_is_out = s.target_life == kDead || s.target_life == kHung;
  if (source_is_out && target_is_out) return true;
  // Stopped within the instants between condemning the source and RUNNING, with no daemon.
  return s.daemon_life == kDead && s.target_life == kHung &&
         s.fence == REHOME_FENCE_STATE_SOURCE_CONDEMNED && !model.moves;
}

bool IsFaultless(const State& s) {
  return !s.source_crashed && !s.target_crashed && s.source_life != kHung && s.target_life != kHung;
}

int CountLost(const Model& model, const Explorer& explorer, bool also_with_faults) {
  int lost = 0;
  for (const State& s : explorer.ends()) {
    if (s.source_runs + s.target_runs == 1) continue;
    if (!also_with_faults && !IsFaultless(s)) continue;
    lost += !IsExcused(model, explorer, s);
  }
  return lost;
}

// A guest that stands still for good in a source that lives and has not been refused by the kernel:
// nobody else has to be there for it to go on within both deadlines.
int CountFrozen(const Model& model, const Explorer& explorer) {
  int frozen = 0;
  for (const State& s : explorer.ends()) {
    if (s.source_runs + s.target_runs > 0 || s.source_life != kAlive || s.vm_dead) continue;
    frozen += !IsExcused(model, explorer, s);
  }
  return frozen;
}

// A guest that goes on from a state that it has left behind.
int CountPast(const Explorer& explorer) {
  int past = 0;
  for (const State& s : explorer.seen()) past += s.target_runs && s.resumed;
  return past;
}

int CountTwice(const Explorer& explorer) {
  int twice = 0;
  for (const State& s : explorer.seen()) {
    // A source that runs a VM whose context has moved runs a guest that another one has.
    twice += s.source_runs && (s.target_runs || s.vm_dead);
  }
  return twice;
}

constexpr Model kMove = {.moves = true, .policy = REHOME_FENCE_KERNEL};
constexpr Model kFenceBefore = {.moves = false, .policy = REHOME_FENCE_BEFORE_RESUME};
constexpr Model kFenceAfter = {.moves = false, .policy = REHOME_FENCE_AFTER_RESUME};

constexpr Model WithoutStore(Model model) {
  model.store = false;
  return model;
}
constexpr Model WithDisobedientSource(Model model) {
  model.source_obeys = false;
  return model;
}

class HandoverModel : public testing::TestWithParam<Model> {};
INSTANTIATE_TEST_SUITE_P(Policies, HandoverModel,
                         testing::Values(kMove, kFenceBefore, kFenceAfter, WithoutStore(kMove),
                                         WithoutStore(kFenceBefore), WithoutStore(kFenceAfter)));

TEST_P(HandoverModel, NeverHasTwoOwnersAndLosesNoGuestThatCouldBeKept) {
  Explorer explorer(GetParam());
  explorer.Run();
  EXPECT_EQ(CountTwice(explorer), 0);
  EXPECT_EQ(CountPast(explorer), 0);
  EXPECT_EQ(CountLost(GetParam(), explorer, true), 0);
  EXPECT_EQ(CountFrozen(GetParam(), explorer), 0);
  EXPECT_EQ(explorer.CountEndless(), 0u);
  EXPECT_GT(explorer.seen().size(), 1000u);
  RecordProperty("states", static_cast<int>(explorer.seen().size()));
  printf("%zu states, %zu ends\n", explorer.seen().size(), explorer.ends().size());
}

TEST_P(HandoverModel, CanEndWellOnEitherSide) {
  Explorer explorer(GetParam());
  explorer.Run();
  bool on_source = false, on_target = false;
  for (const State& s : explorer.ends()) {
    on_source |= s.source_runs == 1;
    on_target |= s.target_runs == 1;
  }
  EXPECT_TRUE(on_source);
  EXPECT_TRUE(on_target);
}

TEST_P(HandoverModel, RescuesAGuestThatNeitherSideCanRun) {
  Explorer explorer(GetParam());
  explorer.Run();
  bool rescued = false, rescued_twice = false;
  for (const State& s : explorer.ends()) {
    rescued |= s.target_runs && s.rescues == 1;
    rescued_twice |= s.target_runs && s.rescues == 2;
  }
  EXPECT_TRUE(rescued);
  EXPECT_TRUE(rescued_twice);
}

// With AFTER_RESUME the source is trusted; that is what the policy means.
TEST(HandoverModelOfDisobedience, TheFenceStopsASourceThatRunsOnUnasked) {
  for (const Model& model : {WithDisobedientSource(kMove), WithDisobedientSource(kFenceBefore)}) {
    Explorer explorer(model);
    explorer.Run();
    EXPECT_EQ(CountTwice(explorer), 0) << model.policy;
  }
  Explorer trusting(WithDisobedientSource(kFenceAfter));
  trusting.Run();
  EXPECT_GT(CountTwice(trusting), 0);
}

// The guards are needed: the walk without one of them finds what it protects from.

TEST(HandoverModelMutant, LosesGuestsWithoutTheFenceWord) {
  for (Model model : {kFenceBefore, kFenceAfter}) {
    model.without = Without::kFenceWord;
    Explorer explorer(model);
    explorer.Run();
    EXPECT_GT(CountLost(model, explorer, false), 0) << model.policy;
  }
}

TEST(HandoverModelMutant, LosesGuestsWhenATargetThatCannotFenceLeavesUnseen) {
  Model model = kFenceBefore;
  model.without = Without::kCareInLeaving;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountLost(model, explorer, false), 0);
}

TEST(HandoverModelMutant, LosesGuestsWhenATargetGivesThemBackToADeadSource) {
  for (Model model : {kMove, kFenceBefore, kFenceAfter}) {
    model.without = Without::kCareInRefusing;
    Explorer explorer(model);
    explorer.Run();
    EXPECT_GT(CountLost(model, explorer, true), 0) << model.policy;
  }
}

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProofOfDeath) {
  Model model = kMove;
  model.without = Without::kProofOfDeath;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer) + CountPast(explorer), 0);
}

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProbe) {
  Model model = kMove;
  model.without = Without::kProbe;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer), 0);
}

TEST(HandoverModelMutant, LosesGuestsWhenTheDaemonAbortsBeforeTheFenceIsFinished) {
  Model model = kFenceBefore;
  model.without = Without::kFenceBeforeAbort;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountLost(model, explorer, true), 0);
}

TEST(HandoverModelMutant, RunsAGuestOfThePastWhenARescueTrustsAnAbortedBlock) {
  Model model = kFenceAfter;
  model.without = Without::kDoubtAboutAborted;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountPast(explorer), 0);
}

TEST(HandoverModelMutant, FreezesGuestsWithoutTheClaimDeadline) {
  for (Model model : {kMove, kFenceBefore, kFenceAfter}) {
    model.without = Without::kClaimDeadline;
    Explorer explorer(model);
    explorer.Run();
    EXPECT_GT(CountFrozen(model, explorer), 0) << model.policy;
  }
}

TEST(HandoverModelMutant, FreezesGuestsWithoutTheResolveDeadline) {
  for (Model model : {kMove, kFenceBefore, kFenceAfter}) {
    model.without = Without::kResolveDeadline;
    Explorer explorer(model);
    explorer.Run();
    EXPECT_GT(CountFrozen(model, explorer), 0) << model.policy;
  }
}

TEST(HandoverModelMutant, LosesGuestsThatAreBackWhenTheDaemonDoesNotLookAgainBeforeItKills) {
  Model model = kFenceBefore;
  model.without = Without::kSecondLook;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountLost(model, explorer, true), 0);
}

}  // namespace
}  // namespace rehome::model
