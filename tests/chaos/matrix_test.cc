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

RanCell InARescue(const char* place) {
  RanCell ran = {.cell = {.variant = {.name = "link-move", .backend = "sim"},
                          .phase = {Side::kTarget, place},
                          .victims = {.daemon = true},
                          .within = Within::kRescue,
                          .first = {{Side::kTarget, "moved"}, {.target = true}}},
                 .result = {}};
  ran.result.outcome = Outcome::kHeld;
  ran.result.ending = "target";
  return ran;
}

TEST(Markdown, ABlowInARescueIsInATableOfItsOwn) {
  RanCell plain = InARescue("arm");
  plain.cell.within = Within::kHandover;
  plain.result.ending = "source";
  EXPECT_EQ(ToMarkdown({plain, InARescue("arm")}),
            "## sim, link-move, SIGKILL\n\n"
            "| phase | daemon |\n|---|---|\n| target:arm | source |\n\n"
            "## sim, link-move, SIGKILL, in a rescue after target@target:moved\n\n"
            "| phase | daemon |\n|---|---|\n| target:arm | target |\n\n");
}

TEST(Markdown, AMatrixIsNamedByKernelAndBlowAndWhatThatFallsInto) {
  RanCell ran = InARescue("arm");
  EXPECT_EQ(MatrixOf(ran.cell), "SIGKILL in a rescue, simulated kernel");
  ran.cell.within = Within::kRecovery;
  ran.cell.blow = Blow::kStop;
  ran.cell.variant.backend = "kvm";
  EXPECT_EQ(MatrixOf(ran.cell), "SIGSTOP in a recovery, real KVM");
  ran.cell.within = Within::kHandover;
  EXPECT_EQ(MatrixOf(ran.cell), "SIGSTOP, real KVM");
}

}  // namespace
}  // namespace rehome::chaos
