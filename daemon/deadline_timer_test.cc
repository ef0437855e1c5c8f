// SPDX-License-Identifier: Apache-2.0
#include "daemon/deadline_timer.h"

#include <gtest/gtest.h>

#include <vector>

namespace rehome {
namespace {

using Clock = DeadlineTimer::Clock;
constexpr std::chrono::hours kFar{1};
constexpr std::chrono::seconds kBound{30};

// Collects what expired.
class Expired {
 public:
  void Add(const std::string& key) {
    std::lock_guard<std::mutex> lock(mutex_);
    keys_.push_back(key);
    changed_.notify_all();
  }
  std::vector<std::string> Await(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, kBound, [&] { return keys_.size() >= count; });
    return keys_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> keys_;
};

class DeadlineTimerTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(timer_.Start().ok()); }
  Expired expired_;
  DeadlineTimer timer_{[this](const std::string& key) { expired_.Add(key); }};
};

TEST_F(DeadlineTimerTest, KeysExpireInTheOrderOfTheirDeadlines) {
  const Clock::time_point now = Clock::now();
  timer_.Schedule("far", now + kFar);
  timer_.Schedule("second", now + std::chrono::milliseconds(20));
  timer_.Schedule("first", now + std::chrono::milliseconds(10));
  EXPECT_EQ(expired_.Await(2), (std::vector<std::string>{"first", "second"}));
  EXPECT_GE(Clock::now(), now + std::chrono::milliseconds(20)) << "never early";
}

TEST_F(DeadlineTimerTest, ADeadlineThatHasPassedExpiresAtOnceAndOnce) {
  timer_.Schedule("a", Clock::now() - kFar);
  ASSERT_EQ(expired_.Await(1).size(), 1u);
  timer_.Schedule("b", Clock::now() - kFar);
  EXPECT_EQ(expired_.Await(2), (std::vector<std::string>{"a", "b"}));
}

TEST_F(DeadlineTimerTest, ADroppedKeyDoesNotExpire) {
  timer_.Schedule("dropped", Clock::now() + std::chrono::milliseconds(5));
  timer_.Drop("dropped");
  timer_.Schedule("kept", Clock::now() + std::chrono::milliseconds(10));
  EXPECT_EQ(expired_.Await(1), std::vector<std::string>{"kept"});
}

TEST_F(DeadlineTimerTest, StopForgetsWhatIsLeft) {
  timer_.Schedule("far", Clock::now() + kFar);
  timer_.Stop();
  timer_.Stop();
  timer_.Schedule("late", Clock::now());
  EXPECT_TRUE(expired_.Await(0).empty());
}

TEST_F(DeadlineTimerTest, AnExpiredKeyMayUseTheTimerInItsCall) {
  DeadlineTimer* self = nullptr;
  Expired seen;
  DeadlineTimer timer([&](const std::string& key) {
    self->Drop(key);
    if (key == "again") self->Schedule("last", Clock::now());
    seen.Add(key);
  });
  self = &timer;
  ASSERT_TRUE(timer.Start().ok());
  timer.Schedule("again", Clock::now());
  EXPECT_EQ(seen.Await(2), (std::vector<std::string>{"again", "last"}));
}

}  // namespace
}  // namespace rehome
