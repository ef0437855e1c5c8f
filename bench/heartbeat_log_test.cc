// SPDX-License-Identifier: Apache-2.0
#include "bench/heartbeat_log.h"

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

TEST(HeartbeatTest, ReadsAWholeLineAndNothingElse) {
  const auto beat = ParseHeartbeat("heartbeat 17 steps 91234 errors 2");
  ASSERT_TRUE(beat);
  EXPECT_EQ(beat->number, 17u);
  EXPECT_EQ(beat->steps, 91234u);
  EXPECT_EQ(beat->errors, 2u);
  for (const char* line : {"", "heartbeat 17 steps 91234", "eartbeat 17 steps 9 errors 2",
                           "heartbeat 17 steps 9 errors 2 ", "heartbeat 17 steps 9 errors 2x"}) {
    EXPECT_FALSE(ParseHeartbeat(line)) << line;
  }
}

HeartbeatLog LogOf(const std::vector<const char*>& lines) {
  HeartbeatLog log;
  for (const char* line : lines) log.Add(line);
  return log;
}

TEST(HeartbeatLogTest, ASeriesWithoutAHoleHasNoFault) {
  const HeartbeatLog log =
      LogOf({"teps 5 errors 0", "heartbeat 8 steps 10 errors 0", "heartbeat 9 steps 10 errors 0",
             "heartbeat 10 steps 15 errors 0"});
  EXPECT_EQ(log.first(), 8u);
  EXPECT_EQ(log.last(), 10u);
  EXPECT_EQ(log.fault(), "");
}

TEST(HeartbeatLogTest, NamesAHole) {
  const HeartbeatLog log =
      LogOf({"heartbeat 8 steps 10 errors 0", "heartbeat 10 steps 15 errors 0"});
  EXPECT_EQ(log.fault(), "after heartbeat 8 came heartbeat 10");
}

TEST(HeartbeatLogTest, NamesARepetition) {
  const HeartbeatLog log =
      LogOf({"heartbeat 8 steps 10 errors 0", "heartbeat 8 steps 10 errors 0"});
  EXPECT_EQ(log.fault(), "after heartbeat 8 came heartbeat 8");
}

TEST(HeartbeatLogTest, NamesATornLine) {
  const HeartbeatLog log =
      LogOf({"heartbeat 8 steps 10 errors 0", "hear", "heartbeat 9 steps 10 errors 0"});
  EXPECT_EQ(log.fault(), "after heartbeat 8 came 'hear'");
}

TEST(HeartbeatLogTest, NamesAGuestThatWentBack) {
  const HeartbeatLog log = LogOf({"heartbeat 8 steps 10 errors 0", "heartbeat 9 steps 9 errors 0"});
  EXPECT_NE(log.fault(), "");
}

TEST(HeartbeatLogTest, KeepsTheFirstFault) {
  const HeartbeatLog log =
      LogOf({"heartbeat 8 steps 10 errors 0", "heartbeat 10 steps 15 errors 0", "?"});
  EXPECT_EQ(log.fault(), "after heartbeat 8 came heartbeat 10");
}

}  // namespace
}  // namespace rehome::bench
