// SPDX-License-Identifier: Apache-2.0
//
// What a source does between START and the pause.
#include <optional>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

uint64_t PauseRequested(const Handover& handover) {
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(&handover.block(), phases);
  return phases[REHOME_PHASE_PAUSE_REQUESTED];
}

TEST(HandoverQuiesce, ThePauseBeginsWhenTheDevicesAreQuiet) {
  Handover handover(kMap);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  EXPECT_NE(handover.page().quiesced_ns.load(), 0u);
  EXPECT_GE(PauseRequested(handover), handover.page().quiesced_ns.load());
}

TEST(HandoverQuiesce, ABusyDeviceIsSaidAndTheGuestHasNotBeenPaused) {
  Handover handover(kMap);
  handover.page().quiesce_fails.store(1);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  const std::optional<rehome_event> resumed = handover.source().AwaitEvent(REHOME_EVENT_RESUMED);
  ASSERT_TRUE(resumed);
  EXPECT_STREQ(resumed->text, REHOME_TEXT_DEVICE_BUSY "a flush");
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  EXPECT_EQ(handover.page().pauses.load(), 0u);
  EXPECT_EQ(PauseRequested(handover), 0u);
}

// Somebody has decided already: the guest has nothing to do with it, and the daemon is told.
TEST(HandoverQuiesce, ASourceIsNotStartedIntoAVerdictThatIsNotOpen) {
  Handover handover(kMap);
  ASSERT_TRUE(handover.Lead(Stage::kSourceArmed));
  // Not by a target that waits for the state, as targets do.
  ASSERT_EQ(
      rehome_block_move_verdict(&handover.block(), REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED), 0);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_START, kMigration), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(handover.page().pauses.load(), 0u);
  EXPECT_EQ(handover.page().quiesced_ns.load(), 0u);
}

TEST(HandoverQuiesce, AGuestIsNotPausedForWhatWasAbortedMeanwhile) {
  Handover handover(kMap);
  handover.HangAt(Step::kQuiesce);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kQuiesce));
  ASSERT_EQ(
      rehome_block_move_verdict(&handover.block(), REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  handover.LetGo();
  ASSERT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(handover.page().pauses.load(), 0u);
  EXPECT_EQ(handover.page().source_runs.load(), 1u);
}

}  // namespace
}  // namespace rehome
