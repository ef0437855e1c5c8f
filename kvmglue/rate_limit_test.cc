// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/rate_limit.h"

#include <gtest/gtest.h>

namespace rehome {
namespace {

TEST(RateLimitTest, LetsABurstPassInEachWindowAndCountsTheRest) {
  RateLimit limit(2, std::chrono::seconds(10));
  RateLimit::TimePoint now{std::chrono::hours(1)};
  uint64_t suppressed = 99;
  EXPECT_TRUE(limit.Allow(now, &suppressed));
  EXPECT_EQ(suppressed, 0u);
  EXPECT_TRUE(limit.Allow(now + std::chrono::seconds(9), &suppressed));
  EXPECT_FALSE(limit.Allow(now + std::chrono::seconds(9), &suppressed));
  EXPECT_FALSE(limit.Allow(now + std::chrono::seconds(9), &suppressed));
  EXPECT_TRUE(limit.Allow(now + std::chrono::seconds(10), &suppressed));
  EXPECT_EQ(suppressed, 2u);
}

TEST(RateLimitTest, WhatWasHeldBackAndIsToldOfIsNotToldOfAgain) {
  RateLimit limit(1, std::chrono::seconds(10));
  RateLimit::TimePoint now{std::chrono::hours(1)};
  uint64_t suppressed = 99;
  EXPECT_TRUE(limit.Allow(now, &suppressed));
  EXPECT_FALSE(limit.Allow(now, &suppressed));
  EXPECT_EQ(limit.TakeSuppressed(), 1u);
  EXPECT_EQ(limit.TakeSuppressed(), 0u);
  EXPECT_TRUE(limit.Allow(now + std::chrono::seconds(10), &suppressed));
  EXPECT_EQ(suppressed, 0u);
}

}  // namespace
}  // namespace rehome
