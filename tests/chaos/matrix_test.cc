// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/matrix.h"

#include <vector>

#include "gtest/gtest.h"

namespace rehome::chaos {
namespace {

using std::chrono::milliseconds;

RanCell Orphaned(const char* place, milliseconds standstill, milliseconds held_for) {
  RanCell ran = {.cell = {.phase = {Side::kSource, place}}, .result = {}};
  ran.result.outcome = Outcome::kHeld;
  ran.result.attempts = 1;
  ran.result.orphaned_standstill = standstill;
  ran.result.held_for = held_for;
  return ran;
}

TEST(Summary, WhatACellHeldItsGuestForIsNotTheProtocolsDelay) {
  const std::vector<RanCell> ran = {
      Orphaned("announced", kBlackoutDeadline + milliseconds(7), milliseconds(0)),
      Orphaned("saved", kBlackoutDeadline + milliseconds(9000), milliseconds(9590)),
      Orphaned("pause", milliseconds(50), milliseconds(40))};
  const Summary summary = Summarize(ran);
  EXPECT_EQ(summary.orphaned, ran.size());
  EXPECT_EQ(summary.orphaned_max_ms, kBlackoutDeadline.count() + 9000);
  EXPECT_EQ(summary.orphaned_longest, ran[1].cell.Name());
  EXPECT_EQ(summary.orphaned_late_ms, 7);
}

TEST(Summary, NothingIsLateWhereNothingWasOrphaned) {
  const Summary summary = Summarize({RanCell{}});
  EXPECT_EQ(summary.cells, 1);
  EXPECT_EQ(summary.orphaned, 0u);
  EXPECT_EQ(summary.orphaned_late_ms, 0);
}

}  // namespace
}  // namespace rehome::chaos
