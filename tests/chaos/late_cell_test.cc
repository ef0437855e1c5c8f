// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/late_cell.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace rehome::chaos {
namespace {

std::vector<Cell> LateCells() {
  std::vector<Cell> cells;
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      for (const Blow blow : {Blow::kKill, Blow::kStop}) {
        for (Cell& cell : RescueCells(variant, blow)) cells.push_back(std::move(cell));
        for (Cell& cell : RecoveryCells(variant, blow)) cells.push_back(std::move(cell));
      }
    }
  }
  return cells;
}

bool IsKill(const Cell& cell) { return cell.blow == Blow::kKill; }

TEST(LateMatrix, EveryCellIsThereOnceAndInNoHandover) {
  std::set<std::string> names;
  for (const Cell& cell : LateCells()) {
    EXPECT_TRUE(names.insert(cell.Name()).second) << cell.Name();
    EXPECT_NE(cell.within, Within::kHandover) << cell.Name();
  }
}

// A target that hangs while it prepares costs a cell a minute, and is one variant's.
TEST(LateMatrix, ARescueIsStruckAtEveryPlaceThatATargetPasses) {
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      for (const Blow blow : {Blow::kKill, Blow::kStop}) {
        std::set<std::string> struck;
        for (const Cell& cell : RescueCells(variant, blow)) {
          if (cell.victims.target) struck.insert(cell.phase.place);
        }
        const std::vector<std::string> all = TargetPlaces(variant);
        std::set<std::string> places(all.begin(), all.end());
        if (blow == Blow::kStop && variant.name != "link-move") {
          places.erase("prepare");
          places.erase("prepared");
        }
        EXPECT_EQ(struck, places) << variant.name;
      }
    }
  }
}

TEST(LateMatrix, ARecoveryIsStruckAtEveryPlaceThatADaemonPasses) {
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      std::set<std::string> struck, places;
      for (const Cell& cell : RecoveryCells(variant, Blow::kKill)) {
        if (cell.victims.daemon) struck.insert(cell.phase.place);
      }
      for (const RecoveryPlace& place : RecoveryPlaces()) places.insert(place.name);
      EXPECT_EQ(struck, places) << variant.name;
    }
  }
}

TEST(LateMatrix, EveryStandingOfAGuestIsRecoveredFrom) {
  for (const char* backend : {"kvm", "sim"}) {
    for (const Variant& variant : Variants(backend)) {
      std::set<Standing> standings;
      for (const Cell& cell : RecoveryCells(variant, Blow::kKill)) {
        standings.insert(StandingAfter(variant, cell.first));
      }
      EXPECT_EQ(standings.size(), 3u) << variant.name;
    }
  }
}

TEST(LateMatrix, NobodyIsStruckWhoIsDeadAlready) {
  for (const Cell& cell : LateCells()) {
    EXPECT_FALSE(cell.victims.source && cell.first.victims.source) << cell.Name();
    if (cell.within == Within::kRecovery && cell.victims.target) {
      EXPECT_FALSE(cell.first.victims.target) << cell.Name();
    }
  }
}

TEST(LateMatrix, ItsPlacesAreInTheOrderInWhichADaemonComesToThem) {
  uint64_t previous = 0;
  for (const RecoveryPlace& place : RecoveryPlaces()) {
    const uint64_t moment = 2 * place.append + (place.is_before ? 0 : 1);
    EXPECT_GT(moment, previous) << place.name;
    EXPECT_EQ(FindRecoveryPlace(place.name).append, place.append);
    previous = moment;
  }
}

TEST(LatePromise, AStoreSavesEveryGuestThatHasNotRunOn) {
  for (const Cell& cell : LateCells()) {
    if (!cell.store || !IsKill(cell)) continue;
    const bool ran = cell.within == Within::kRescue
                         ? AfterRunning(cell.phase)
                         : StandingAfter(cell.variant, cell.first) != Standing::kStranded;
    if (!ran) {
      EXPECT_TRUE(MustSucceed(cell)) << cell.Name();
    }
  }
}

TEST(LatePromise, ADaemonThatLivesSavesEveryGuestThatHasNotRunOn) {
  for (const Cell& cell : LateCells()) {
    if (cell.within != Within::kRescue || cell.victims.daemon || !IsKill(cell)) continue;
    EXPECT_EQ(MayBeLost(cell), AfterRunning(cell.phase) && cell.victims.target) << cell.Name();
  }
}

TEST(LatePromise, TheDeathOfADaemonAloneCostsNoGuestThatRuns) {
  for (const Cell& cell : LateCells()) {
    if (cell.victims.source || cell.victims.target || !IsKill(cell)) continue;
    if (cell.within == Within::kRescue && !AfterRunning(cell.phase)) continue;
    if (StandingAfter(cell.variant, cell.first) == Standing::kStranded &&
        cell.within == Within::kRecovery) {
      continue;
    }
    EXPECT_FALSE(MayBeLost(cell)) << cell.Name();
  }
}

TEST(LatePromise, AHangCostsOnlyAGuestThatTheFirstBlowHasCost) {
  for (const Cell& cell : LateCells()) {
    if (IsKill(cell) || !MayBeLost(cell)) continue;
    EXPECT_EQ(cell.within, Within::kRecovery) << cell.Name();
    EXPECT_EQ(StandingAfter(cell.variant, cell.first), Standing::kStranded) << cell.Name();
    EXPECT_FALSE(cell.store) << cell.Name();
  }
}

TEST(LatePromise, OnlyAHungSourceOrTheOnlyOneThatKnowsLeavesARecoveryOpen) {
  for (const Cell& cell : LateCells()) {
    if (!MayBeIndeterminate(cell)) continue;
    EXPECT_EQ(cell.within, Within::kRecovery) << cell.Name();
    EXPECT_FALSE(IsKill(cell)) << cell.Name();
    const bool runs_on_target = StandingAfter(cell.variant, cell.first) == Standing::kOnTarget;
    EXPECT_TRUE(runs_on_target ? cell.victims.target && !cell.store : cell.victims.source)
        << cell.Name();
  }
}

TEST(LatePromise, WhatStaysUndecidedHasLostItsOnlyBlockAndItsContext) {
  int count = 0;
  for (const Cell& cell : LateCells()) {
    if (!StaysUndecidedForWantOfABlock(cell) && !LosesItsLastContext(cell)) continue;
    EXPECT_NE(StaysUndecidedForWantOfABlock(cell), LosesItsLastContext(cell)) << cell.Name();
    ++count;
    EXPECT_TRUE(cell.variant.moves() && cell.victims.daemon && !cell.store) << cell.Name();
    EXPECT_FALSE(cell.victims.source || cell.first.victims.source) << cell.Name();
    EXPECT_TRUE(MayBeLost(cell)) << cell.Name();
  }
  EXPECT_GT(count, 0);
}

TEST(LatePromise, OnlyAGuestThatMayBeLostDiesWithTheOwnerOnRecord) {
  for (const Cell& cell : LateCells()) {
    for (const Side side : {Side::kSource, Side::kTarget}) {
      if (MayDieAsOwner(cell, side)) {
        EXPECT_TRUE(MayBeLost(cell)) << cell.Name();
      }
    }
  }
}

TEST(LatePromise, AGuestThatGoesOnWithoutADaemonIsNotLost) {
  for (const Cell& cell : LateCells()) {
    if (IsKill(cell) && GoesOnWithoutDaemon(cell)) {
      EXPECT_FALSE(MayBeLost(cell)) << cell.Name();
    }
  }
}

TEST(LatePromise, ACellWhoseOwnBlowDidNotLandIsJudgedByItsFirst) {
  for (const Cell& cell : LateCells()) {
    const Cell first = Unstruck(cell, /*first_landed=*/true);
    EXPECT_EQ(first.victims.Name(), cell.first.victims.Name()) << cell.Name();
    if (StandingAfter(cell.variant, cell.first) == Standing::kStranded) {
      EXPECT_NE(MustSucceed(first), MayBeLost(first)) << cell.Name();
    }
    const Cell none = Unstruck(cell, /*first_landed=*/false);
    EXPECT_FALSE(MayBeLost(none) || MustSucceed(none) || MayBeIndeterminate(none) ||
                 MayDieAsOwner(none, Side::kSource) || MayDieAsOwner(none, Side::kTarget))
        << cell.Name();
  }
}

}  // namespace
}  // namespace rehome::chaos
