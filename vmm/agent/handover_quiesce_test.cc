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

}  // namespace
}  // namespace rehome
