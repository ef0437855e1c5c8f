// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/handover_model.h"

#include "gtest/gtest.h"

namespace rehome::model {
namespace {

// Whose own crash, or which limit that docs/handover.md names, explains that nobody runs the guest.
bool IsExcused(const Model& model, const State& s) {
  // A target that has left, left the guest to the source.
  bool source_had_it = !s.ready || s.verdict == REHOME_VERDICT_ABORTED || s.target_was_condemned ||
                       s.target == kLeaves;
  if (s.source_crashed && (s.target_crashed || source_had_it)) return true;
  if (s.target_crashed && s.verdict == REHOME_VERDICT_RUNNING) return true;
  bool source_is_fenced = model.policy == REHOME_FENCE_BEFORE_RESUME &&
                          (s.fence == REHOME_SIDE_SOURCE || s.fence == REHOME_FENCE_STATE_PROVEN);
  if (s.target_crashed && source_is_fenced) return true;
  return model.moves && s.vm_dead && s.target_life == kDead;  // waits for a rescue
}

int CountLost(const Model& model, const Explorer& explorer, bool also_with_crashes) {
  int lost = 0;
  for (const State& s : explorer.ends()) {
    if (s.source_runs + s.target_runs == 1) continue;
    if (!also_with_crashes && (s.source_crashed || s.target_crashed)) continue;
    lost += !IsExcused(model, s);
  }
  return lost;
}

int CountTwice(const Explorer& explorer) {
  int twice = 0;
  for (const State& s : explorer.seen()) {
    // A source that runs a VM whose context has moved runs a guest that another one has.
    twice += s.source_runs && (s.target_runs || s.vm_dead);
  }
  return twice;
}

constexpr Model kMove = {true, REHOME_FENCE_KERNEL};
constexpr Model kFenceBefore = {false, REHOME_FENCE_BEFORE_RESUME};
constexpr Model kFenceAfter = {false, REHOME_FENCE_AFTER_RESUME};

class HandoverModel : public testing::TestWithParam<Model> {};
INSTANTIATE_TEST_SUITE_P(Policies, HandoverModel,
                         testing::Values(kMove, kFenceBefore, kFenceAfter));

TEST_P(HandoverModel, NeverHasTwoOwnersAndLosesNoGuestThatCouldBeKept) {
  Explorer explorer(GetParam());
  explorer.Run();
  EXPECT_EQ(CountTwice(explorer), 0);
  EXPECT_EQ(CountLost(GetParam(), explorer, true), 0);
  EXPECT_GT(explorer.seen().size(), 1000u);
  RecordProperty("states", static_cast<int>(explorer.seen().size()));
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

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProofOfDeath) {
  Model model = kMove;
  model.without = Without::kProofOfDeath;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer), 0);
}

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProbe) {
  Model model = kMove;
  model.without = Without::kProbe;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer), 0);
}

}  // namespace
}  // namespace rehome::model
