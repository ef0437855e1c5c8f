// SPDX-License-Identifier: Apache-2.0
#include "client/cli/format.h"

#include <gtest/gtest.h>

namespace rehome {
namespace {

using std::chrono::milliseconds;

TEST(FormatTest, TimesHaveTheUnitThatFits) {
  EXPECT_EQ(FormatNanos(0, "u"), "0 us");
  EXPECT_EQ(FormatNanos(7, "u"), "0.0 us");
  EXPECT_EQ(FormatNanos(7'100, "u"), "7.1 us");
  EXPECT_EQ(FormatNanos(999'900, "u"), "999.9 us");
  EXPECT_EQ(FormatNanos(1'204'000, "u"), "1.204 ms");
  EXPECT_EQ(FormatNanos(2'350'000'000, "u"), "2.35 s");
}

TEST(FormatTest, BytesAreBinary) {
  EXPECT_EQ(FormatBytes(4096), "4096 bytes");
  EXPECT_EQ(FormatBytes(512 << 20), "512 MiB");
  EXPECT_EQ(FormatBytes(3LL << 29), "1.5 GiB");
  EXPECT_EQ(FormatBytes(2LL << 40), "2 TiB");
}

TEST(FormatTest, PointsInTimeAreUtc) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(FormatTime(time), "");
  time.set_seconds(1'795'423'687);
  EXPECT_EQ(FormatTime(time), "2026-11-23 08:48:07 UTC");
}

TEST(FormatTest, DurationsNeedAUnit) {
  EXPECT_EQ(ParseDuration("250ms"), milliseconds(250));
  EXPECT_EQ(ParseDuration("5s"), milliseconds(5000));
  EXPECT_EQ(ParseDuration("1.5m"), milliseconds(90'000));
  EXPECT_EQ(ParseDuration("2h"), milliseconds(7'200'000));
  EXPECT_EQ(ParseDuration("0.1ms"), milliseconds(1)) << "rounded up, never to none";
  for (const char* wrong : {"", "5", "s", "0s", "-1s", "5 s", "5x", "1e9s", "99999999h", "nan"}) {
    EXPECT_EQ(ParseDuration(wrong), std::nullopt) << wrong;
  }
}

TEST(FormatTest, CountsAgreeInNumber) {
  EXPECT_EQ(Count(1, "check"), "1 check");
  EXPECT_EQ(Count(0, "check"), "0 checks");
  EXPECT_EQ(Count(2, "check"), "2 checks");
}

}  // namespace
}  // namespace rehome
