// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_log.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace rehome {
namespace {

class GuestLogTest : public ::testing::Test {
 protected:
  void Flood(int lines) {
    for (int i = 0; i < lines; ++i) log_->Line("fault");
  }

  std::vector<std::string> written_;
  GuestLog::Clock::time_point now_{std::chrono::hours(1)};
  std::unique_ptr<GuestLog> log_ = std::make_unique<GuestLog>(
      [this](const std::string& line) { written_.push_back(line); }, [this] { return now_; });
};

TEST_F(GuestLogTest, AFloodIsAFewLinesAndItsNumberIsSaidAfterwards) {
  Flood(1000);
  EXPECT_EQ(written_, std::vector<std::string>(kGuestLogLines, "fault"));
  now_ += kGuestLogWindow;
  Flood(1);
  ASSERT_EQ(written_.size(), kGuestLogLines + 2u);
  EXPECT_EQ(written_[kGuestLogLines], "995 lines of what the guest did were left out");
  EXPECT_EQ(written_.back(), "fault");
}

TEST_F(GuestLogTest, WhatWasLeftOutLastIsSaidAtTheEnd) {
  Flood(kGuestLogLines + 3);
  log_.reset();
  ASSERT_EQ(written_.size(), kGuestLogLines + 1u);
  EXPECT_EQ(written_.back(), "3 lines of what the guest did were left out");
}

TEST_F(GuestLogTest, NothingIsSaidOfNothing) {
  Flood(kGuestLogLines);
  log_.reset();
  EXPECT_EQ(written_.size(), size_t{kGuestLogLines});
}

}  // namespace
}  // namespace rehome
