// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/cell.h"

#include <set>
#include <string>

#include "gtest/gtest.h"
#include "vmm/reference/test_hooks.h"

namespace rehome::chaos {
namespace {

std::vector<Cell> AllCells() {
  std::vector<Cell> cells;
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      for (const Blow blow : {Blow::kKill, Blow::kStop}) {
        for (Cell& cell : Cells(variant, blow)) cells.push_back(std::move(cell));
      }
    }
  }
  return cells;
}

TEST(Matrix, EveryCellIsThereOnce) {
  std::set<std::string> names;
  for (const Cell& cell : AllCells()) EXPECT_TRUE(names.insert(cell.Name()).second) << cell.Name();
}

TEST(Matrix, ItStrikesAtEveryPlaceThatAVmmCanNameAndAtNoOther) {
  std::set<std::string> struck;
  for (const Cell& cell : AllCells()) struck.insert(cell.phase.place);
  const std::vector<std::string> names = HookPointNames();
  EXPECT_EQ(struck, std::set<std::string>(names.begin(), names.end()));
}

TEST(Matrix, EachPhaseHasEachVictimAndEachPair) {
  // Where there is no target yet, or none any more.
  const std::set<std::string> without_target = {"source:describe", "source:resume"};
  std::set<std::string> seen;
  for (const Cell& cell : AllCells()) {
    if (!cell.store) seen.insert(cell.Name());
  }
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      for (const Phase& phase : Phases(variant)) {
        const std::string where = variant.backend + "/" + variant.name + "/" + phase.Name() + "/";
        const bool has_target = !without_target.contains(phase.Name());
        for (const char* blow : {"/kill", "/stop"}) {
          for (const char* who : {"daemon", "source", "daemon+source"}) {
            EXPECT_TRUE(seen.contains(where + who + blow)) << where << who << blow;
          }
          for (const char* who : {"target", "daemon+target", "source+target"}) {
            EXPECT_EQ(seen.contains(where + who + blow), has_target) << where << who << blow;
          }
        }
      }
    }
  }
}

TEST(Matrix, TheSimulatedKernelHasEveryPolicy) {
  std::set<v1::Migration::FencePolicy> policies;
  for (const Variant& variant : Variants("sim")) policies.insert(variant.policy);
  EXPECT_EQ(policies.size(), 3u);
}

TEST(Promise, TheDeathOfTheDaemonAloneNeverCostsAGuest) {
  for (const Cell& cell : AllCells()) {
    if (cell.victims.source || cell.victims.target) continue;
    EXPECT_FALSE(MayBeLost(cell)) << cell.Name();
  }
}

TEST(Promise, AHangNeverCostsAGuest) {
  for (const Cell& cell : AllCells()) {
    if (cell.blow != Blow::kStop) continue;
    EXPECT_FALSE(MayBeLost(cell)) << cell.Name();
  }
}

TEST(Promise, AStoreSavesEveryGuestWhoseStateIsCompleteAndHasNotRunOn) {
  for (const Cell& cell : AllCells()) {
    if (!cell.store) continue;
    EXPECT_FALSE(MayBeLost(cell)) << cell.Name();
  }
}

TEST(Promise, WhoeverDiesWithTheSourceOnceTheStateIsCompleteTheMigrationSucceedsOrTheGuestIsLost) {
  for (const Cell& cell : AllCells()) {
    if (cell.blow != Blow::kKill || !cell.victims.source) continue;
    if (!IsMidHandover(cell.phase) || cell.phase.place == "saved") continue;
    EXPECT_NE(MustSucceed(cell), MayBeLost(cell)) << cell.Name();
  }
}

TEST(Promise, OnlyAGuestThatMayBeLostDiesWithTheOwnerOnRecord) {
  for (const Cell& cell : AllCells()) {
    const bool source = MayDieAsOwner(cell, Side::kSource);
    const bool target = MayDieAsOwner(cell, Side::kTarget);
    EXPECT_FALSE(source && target) << cell.Name();
    if (source || target) {
      EXPECT_TRUE(MayBeLost(cell)) << cell.Name();
    }
  }
}

TEST(Promise, AStoreLeavesNoCellWithADeadSourceToChance) {
  for (const Cell& cell : AllCells()) {
    if (!cell.store || !cell.victims.source) continue;
    EXPECT_TRUE(MustSucceed(cell)) << cell.Name();
  }
}

TEST(Promise, AMigrationThatEndedBeforeItsPhaseHasNoExcuse) {
  for (const Cell& cell : AllCells()) {
    const Cell unstruck = Unstruck(cell, /*first_landed=*/false);
    EXPECT_FALSE(MayBeLost(unstruck) || MayBeIndeterminate(unstruck)) << cell.Name();
    EXPECT_FALSE(MayDieAsOwner(unstruck, Side::kSource)) << cell.Name();
    EXPECT_FALSE(MayDieAsOwner(unstruck, Side::kTarget)) << cell.Name();
  }
}

TEST(Matrix, ThePartOfItThatIsTestedHasEveryVariantAndEveryKind) {
  for (const char* backend : {"kvm", "sim"}) {
    std::set<Within> kinds;
    for (const Variant& variant : Variants(backend)) {
      size_t tested = 0;
      for (const Cell& cell : rehome::chaos::AllCells(variant, Blow::kKill)) {
        if (!IsTested(cell)) continue;
        ++tested;
        kinds.insert(cell.within);
      }
      EXPECT_GT(tested, 0u) << variant.name;
    }
    EXPECT_EQ(kinds.size(), 3u) << backend;
  }
}

TEST(Promise, OnlyAHungSourceLeavesTheOutcomeOpen) {
  for (const Cell& cell : AllCells()) {
    if (!MayBeIndeterminate(cell)) continue;
    EXPECT_EQ(cell.blow, Blow::kStop) << cell.Name();
    EXPECT_TRUE(cell.victims.source) << cell.Name();
  }
}

}  // namespace
}  // namespace rehome::chaos
