// SPDX-License-Identifier: Apache-2.0
//
// Over every combination of what can be seen: nothing is answered by which the guest could run
// twice or be thrown away.
#include "daemon/settlement.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

std::string Describe(const Observation& o, Action action) {
  return absl::StrCat("verdict ", o.verdict, " saved ", o.state_saved, " fence ", o.fence,
                      " moves ", o.moves, " policy ", static_cast<int>(o.policy), " source ",
                      static_cast<int>(o.source), " target_dead ", o.target_dead, " overdue ",
                      o.overdue, " can_rescue ", o.can_rescue, " was_out ", o.source_was_out,
                      " -> ", ActionName(action));
}

void ForAll(const std::function<void(const Observation&, Action)>& check) {
  size_t count = 0;
  for (uint32_t verdict : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 0xffffffffu})
    for (uint32_t fence : {0u, 1u, 2u, 3u, 4u})
      for (FencePolicy policy :
           {FencePolicy::kKernel, FencePolicy::kBeforeResume, FencePolicy::kAfterResume})
        for (uint8_t source = 1; source <= kSourceSightCount; ++source)
          for (unsigned bits = 0; bits < 64; ++bits) {
            const Observation o = {.verdict = verdict,
                                   .state_saved = (bits & 1) != 0,
                                   .fence = fence,
                                   .moves = (bits & 2) != 0,
                                   .policy = policy,
                                   .source = static_cast<SourceSight>(source),
                                   .target_dead = (bits & 4) != 0,
                                   .overdue = (bits & 8) != 0,
                                   .can_rescue = (bits & 16) != 0,
                                   .source_was_out = (bits & 32) != 0};
            const Action action = Settle(o);
            SCOPED_TRACE(Describe(o, action));
            check(o, action);
            ++count;
          }
  EXPECT_EQ(count, 8u * 5 * 3 * kSourceSightCount * 64);
}

bool IsOut(SourceSight source) {
  return source == SourceSight::kDead || source == SourceSight::kVmDead;
}
bool IsVerdict(uint32_t word) { return word >= 1 && word <= 5; }

TEST(SettlementTest, EveryActionIsTheAnswerToSomething) {
  std::set<Action> answers;
  ForAll([&](const Observation&, Action action) { answers.insert(action); });
  EXPECT_EQ(answers.size(), static_cast<size_t>(kActionCount));
}

TEST(SettlementTest, OnlyRunningGivesTheGuestToTheTarget) {
  ForAll([](const Observation& o, Action action) {
    EXPECT_EQ(action == Action::kRunning, o.verdict == REHOME_VERDICT_RUNNING);
  });
}

TEST(SettlementTest, TheSourceHasTheGuestOnlyByItsOwnWord) {
  ForAll([](const Observation& o, Action action) {
    if (action != Action::kResumed) return;
    EXPECT_EQ(o.source, SourceSight::kRunsGuest);
    EXPECT_TRUE(o.verdict == REHOME_VERDICT_ABORTED || !IsVerdict(o.verdict));
  });
}

TEST(SettlementTest, ALossIsCalledOneOnlyWithTwoProvenDeaths) {
  ForAll([](const Observation& o, Action action) {
    if (action != Action::kLost) return;
    EXPECT_TRUE(o.target_dead);
    EXPECT_EQ(o.source, SourceSight::kDead);
  });
}

TEST(SettlementTest, AGuestThatCanBeRescuedIsNeverGivenUp) {
  ForAll([](const Observation& o, Action action) {
    if (!o.can_rescue || !o.state_saved || !IsVerdict(o.verdict)) return;
    const bool in_doubt =
        o.verdict == REHOME_VERDICT_ABORTED && !o.source_was_out && o.source == SourceSight::kDead;
    const bool given_up = action == Action::kLost || action == Action::kEndEmptySource;
    EXPECT_TRUE(!given_up || in_doubt);
  });
}

TEST(SettlementTest, ARescueNeedsASavedStateThatNobodyWentOnFrom) {
  ForAll([](const Observation& o, Action action) {
    if (action != Action::kStranded) return;
    EXPECT_TRUE(o.state_saved && o.can_rescue);
    EXPECT_TRUE(IsOut(o.source) || o.source == SourceSight::kVmDeadUnproven);
    EXPECT_TRUE(IsVerdict(o.verdict) && o.verdict != REHOME_VERDICT_RUNNING);
    // A living target still has its time.
    EXPECT_TRUE(o.target_dead || o.overdue);
    if (o.verdict == REHOME_VERDICT_ABORTED && o.source == SourceSight::kDead) {
      EXPECT_TRUE(o.source_was_out);
    }
    // While it may MOVE, only a dead source makes it safe to take the verdict from it.
    if (o.verdict == REHOME_VERDICT_CLAIMED && !o.target_dead) {
      EXPECT_EQ(o.source, SourceSight::kDead);
    }
  });
}

// An agent without feature EXACT says that its VM is dead after any failure of the probe.
TEST(SettlementTest, TheWordOfAnOldAgentEndsNothingAndIsBelievedOnlyWhereTheVerdictSaysTheSame) {
  ForAll([](const Observation& o, Action action) {
    if (o.source != SourceSight::kVmDeadUnproven) return;
    // From CLAIMED nobody could go on behind it, whatever the escrow holds.
    if (o.moves && o.verdict == REHOME_VERDICT_CLAIMED) {
      EXPECT_NE(action, Action::kCondemnTarget);
    }
    EXPECT_NE(action, Action::kEndEmptySource);
    EXPECT_NE(action, Action::kLost);
    if (action != Action::kStranded) return;
    const bool moved = o.moves && o.verdict == REHOME_VERDICT_COMMITTED;
    const bool rescue_goes_on = o.verdict == REHOME_VERDICT_ABORTED && o.source_was_out;
    EXPECT_TRUE(moved || rescue_goes_on);
  });
}

TEST(SettlementTest, ATargetIsStoppedOnlyWhenItHasLostOrSomebodyElseCanHaveTheGuest) {
  ForAll([](const Observation& o, Action action) {
    if (action == Action::kKillTarget) {
      EXPECT_TRUE(o.verdict == REHOME_VERDICT_ABORTED || !IsVerdict(o.verdict));
    }
    if (action != Action::kCondemnTarget) return;
    EXPECT_TRUE(o.overdue);
    const bool source_can =
        o.source != SourceSight::kDead &&
        (!o.moves || (o.verdict == REHOME_VERDICT_CLAIMED && o.source == SourceSight::kPaused));
    EXPECT_TRUE(source_can || (o.can_rescue && o.state_saved));
  });
}

TEST(SettlementTest, ASourceIsStoppedOnlyWhenItIsCondemnedOrEmpty) {
  ForAll([](const Observation& o, Action action) {
    if (action == Action::kFinishFence) {
      EXPECT_EQ(o.fence, REHOME_FENCE_STATE_SOURCE_CONDEMNED);
      EXPECT_EQ(o.policy, FencePolicy::kBeforeResume);
    }
    if (action == Action::kEndEmptySource) {
      EXPECT_EQ(o.source, SourceSight::kVmDead);
      EXPECT_TRUE(o.target_dead);
    }
  });
}

TEST(SettlementTest, TheVerdictIsTakenFromATargetOnlyForALivingSourceThatNobodyIsKilling) {
  ForAll([](const Observation& o, Action action) {
    EXPECT_TRUE(action != Action::kAbortOpen || o.verdict == REHOME_VERDICT_OPEN);
    if (action != Action::kAbortCommitted) return;
    EXPECT_EQ(o.verdict, REHOME_VERDICT_COMMITTED);
    EXPECT_EQ(o.source, SourceSight::kPaused);
    EXPECT_TRUE(o.target_dead || o.overdue);
    const bool being_killed =
        o.policy == FencePolicy::kBeforeResume && o.fence == REHOME_FENCE_STATE_SOURCE_CONDEMNED;
    EXPECT_TRUE(o.target_dead || !being_killed);
  });
}

TEST(SettlementTest, AnOpenVerdictIsLeftToTheTargetWhenTheSourceHasDoneItsPart) {
  ForAll([](const Observation& o, Action action) {
    const bool done = o.source == SourceSight::kDead && o.state_saved;
    if (o.verdict == REHOME_VERDICT_OPEN && done && !o.target_dead && !o.overdue) {
      EXPECT_EQ(action, Action::kWait);
    }
  });
}

TEST(SettlementTest, WithinTheDeadlinesALivingClaimantIsLeftAlone) {
  ForAll([](const Observation& o, Action action) {
    const bool claimed =
        o.verdict == REHOME_VERDICT_CLAIMED || o.verdict == REHOME_VERDICT_COMMITTED;
    if (!claimed || o.target_dead || o.overdue) return;
    EXPECT_TRUE(action == Action::kWait || action == Action::kAnnounceProof);
  });
}

}  // namespace
}  // namespace rehome
