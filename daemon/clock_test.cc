// SPDX-License-Identifier: Apache-2.0
#include "daemon/clock.h"

#include <gtest/gtest.h>

namespace rehome {
namespace {

TEST(ClockTest, TheBootIdStaysTheSameWithinABoot) {
  const auto first = ReadBootId();
  const auto second = ReadBootId();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(*first, *second);
}

TEST(ClockTest, UnixNanosIsInNanosecondsSince1970) {
  constexpr int64_t kYear2020 = 1'577'836'800'000'000'000;
  constexpr int64_t kYear2200 = 7'258'118'400'000'000'000;
  EXPECT_GT(UnixNanos(), kYear2020);
  EXPECT_LT(UnixNanos(), kYear2200);
}

}  // namespace
}  // namespace rehome
