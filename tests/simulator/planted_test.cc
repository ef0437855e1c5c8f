// SPDX-License-Identifier: Apache-2.0
//
// Bugs put where the daemon decides: a simulator that does not find them proves nothing.
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <string>

#include "tests/simulator/simulation.h"

namespace rehome::sim {
namespace {

// As many as the simulator's own test has.
constexpr uint64_t kSeeds = 4000;

// The first seed at which the bug shows; 0: none.
uint64_t FindBug(const std::function<void(Plan&)>& plant) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Plan plan = PlanOf(seed);
    plant(plan);
    const std::string violation = Simulate(plan).violation;
    if (violation.empty()) continue;
    std::cout << "found at seed " << seed << ": " << violation << "\n";
    return seed;
  }
  return 0;
}

TEST(PlantedBugTest, ALossThatIsDeclaredWhileTheSourceIsSilentIsFound) {
  EXPECT_NE(FindBug([](Plan& plan) {
              plan.rules.settle = [](const Observation& seen) {
                const bool early = seen.target_dead && seen.source == SourceSight::kSilent;
                return early ? Action::kLost : Settle(seen);
              };
            }),
            0u);
}

TEST(PlantedBugTest, ARescueThatTakesSilenceForDeathIsFound) {
  EXPECT_NE(FindBug([](Plan& plan) {
              plan.rules.settle = [](Observation seen) {
                if (seen.source == SourceSight::kSilent) seen.source = SourceSight::kDead;
                seen.source_was_out = true;
                return Settle(seen);
              };
            }),
            0u);
}

// Of a VM whose probe failed in any way: its guest may be paused there, alive.
TEST(PlantedBugTest, AnOldAgentsWordThatIsTakenForProofIsFound) {
  EXPECT_NE(FindBug([](Plan& plan) {
              plan.rules.settle = [](Observation seen) {
                if (seen.source == SourceSight::kVmDeadUnproven) seen.source = SourceSight::kVmDead;
                return Settle(seen);
              };
            }),
            0u);
}

TEST(PlantedBugTest, ARecoveryThatTakesAnOpenVerdictForAResumedSourceIsFound) {
  EXPECT_NE(FindBug([](Plan& plan) {
              plan.rules.event_of = [](const Findings& found) {
                const bool open = found.verdict == REHOME_VERDICT_OPEN;
                return open ? Event::kSourceResumed : EventOf(found);
              };
            }),
            0u);
}

TEST(PlantedBugTest, ASourceThatLooksAtNoDeadlineIsFound) {
  EXPECT_NE(FindBug([](Plan& plan) {
              plan.before_step = [](World& world, Process& process) {
                SourceSide& source = process.source;
                source.claim_deadline = source.resolve_deadline = world.now() + kSecond;
              };
            }),
            0u);
}

TEST(PlantedBugTest, AJournalThatLosesTheAnnouncementOfTheHandoverIsFound) {
  // QUEUED, PREFLIGHT, LAUNCHING, PREPARING_TARGET, ARMING, and then this one.
  constexpr size_t kHandingOver = 6;
  EXPECT_NE(FindBug([](Plan& plan) { plan.lost_append = kHandingOver; }), 0u);
}

}  // namespace
}  // namespace rehome::sim
