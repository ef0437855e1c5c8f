// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/time_probe.h"

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "gtest/gtest.h"

namespace rehome::linux_guest {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

TEST(WallClockTest, TheMiddleOfTheExchangeCounts) {
  const TimeSample sample = SampleOf(1000, 5000, 1400, 7);
  EXPECT_EQ(sample.offset, 3800);
  EXPECT_EQ(sample.error, 201u);
  EXPECT_EQ(sample.host_mono, 7u);
}

std::vector<TimeSample> Samples(const std::vector<int64_t>& offsets, uint64_t error) {
  std::vector<TimeSample> samples;
  for (const int64_t offset : offsets) {
    samples.push_back({.host_mono = samples.size() * kSecond, .offset = offset, .error = error});
  }
  return samples;
}

// Of one move as much as of all of them: what is tried is not the step.
constexpr WallClockLimits kShiftOnly = {.shift = 1'000'000, .step = 1'000'000};

TEST(WallClockTest, FindsTheTimeOfABlackoutThatTheClockDidNotCount) {
  EXPECT_TRUE(JudgeWallClock(Samples({500, 600, 550, 580}, 1000), 2, kShiftOnly).kept);
  const WallClock lost = JudgeWallClock(Samples({500, 500, 550, -1'100'000}, 1000), 2, kShiftOnly);
  EXPECT_FALSE(lost.kept);
  EXPECT_EQ(lost.worst_shift, -1'100'500);
  // Both exchanges, and a drift that is known to 2000 ns per second, over three seconds.
  EXPECT_NEAR(static_cast<double>(lost.own_error), 2000 + 3 * 2000, 1);
}

TEST(WallClockTest, FindsManySmallLosses) {
  std::vector<int64_t> offsets(20, 0);
  for (int64_t i = 1; i <= 20; ++i) offsets.push_back(-i * 100'000);
  const WallClock clock = JudgeWallClock(Samples(offsets, 1000), 20, kShiftOnly);
  EXPECT_FALSE(clock.kept);
  EXPECT_EQ(clock.worst_shift, -2'000'000);
}

// Looks as the emulated machine has them: 60 before the moves and one after each of 20, known to
// 0.4 ms at best and often to several times as much.
std::vector<TimeSample> LooksOfAnEmulatedMachine() {
  std::vector<TimeSample> samples;
  for (uint64_t i = 0; i < 60; ++i) {
    samples.push_back(
        {.host_mono = i * 5 * kSecond, .offset = 0, .error = 400'000 + i * 7 % 5 * 600'000});
  }
  for (uint64_t i = 0; i < 20; ++i) {
    samples.push_back({.host_mono = samples.back().host_mono + 11 * kSecond,
                       .offset = 0,
                       .error = 400'000 + i * 3 % 5 * 600'000});
  }
  return samples;
}

TEST(WallClockTest, FindsALossThatIsTheSameAtEachMoveWhereNoSingleLookShowsIt) {
  std::vector<TimeSample> samples = LooksOfAnEmulatedMachine();
  const WallClockLimits limits = {.shift = 1'000'000, .step = 100'000};
  EXPECT_TRUE(JudgeWallClock(samples, 60, limits).kept);
  for (size_t i = 60; i < samples.size(); ++i) {
    samples[i].offset -= static_cast<int64_t>(i - 59) * 200'000;
  }
  const WallClock found = JudgeWallClock(samples, 60, limits);
  EXPECT_FALSE(found.kept);
  EXPECT_LT(std::abs(found.worst_shift), 5'000'000);
  EXPECT_GT(found.step_moves, 10u);
  EXPECT_EQ(found.worst_step, -200'000 * static_cast<int64_t>(found.step_moves));
}

TEST(WallClockTest, FindsAJumpAtOneMove) {
  // 100 ppm by itself; the third move takes 0.3 ms.
  std::vector<TimeSample> samples;
  for (int64_t i = 0; i < 60; ++i) {
    samples.push_back(
        {.host_mono = static_cast<uint64_t>(i) * kSecond, .offset = i * 100'000, .error = 50'000});
  }
  const WallClockLimits limits = {.shift = 1'000'000, .step = 100'000};
  EXPECT_TRUE(JudgeWallClock(samples, 40, limits).kept);
  for (size_t i = 42; i < samples.size(); ++i) samples[i].offset -= 300'000;
  const WallClock found = JudgeWallClock(samples, 40, limits);
  EXPECT_FALSE(found.kept);
  EXPECT_EQ(found.step_moves, 1u);
  EXPECT_NEAR(static_cast<double>(found.worst_step), -300'000, 1);
  // Both looks, and a drift that is known to 100 us over 39 s.
  EXPECT_NEAR(static_cast<double>(found.step_error), 100'000 + 100'000 / 39.0, 1);
}

TEST(WallClockTest, AMachineThatDriftsIsNotTheMovesFault) {
  // 100 ppm from the beginning on.
  std::vector<TimeSample> samples = Samples({0, 100'000, 200'000, 300'000, 4'000'000}, 10);
  samples[4].host_mono = 40 * kSecond;
  const WallClock clock = JudgeWallClock(samples, 3, kShiftOnly);
  EXPECT_TRUE(clock.kept);
  EXPECT_NEAR(clock.drift_ppm, 100, 0.1);
  samples[4].offset += 1'100'000;
  EXPECT_FALSE(JudgeWallClock(samples, 3, kShiftOnly).kept);
}

TEST(WallClockTest, TheBestExchangesTellTheDrift) {
  std::vector<TimeSample> samples = Samples({900'000, 0, 0, 0, 0, 0}, 1000);
  samples[0].error = 1'000'000;
  EXPECT_LT(JudgeWallClock(samples, 5, {.shift = 1000, .step = 1000}).own_error, 10'000u);
  EXPECT_TRUE(JudgeWallClock(samples, 5, {.shift = 1000, .step = 1000}).kept);
}

TEST(WallClockTest, WithoutSamplesNothingIsKept) {
  EXPECT_FALSE(JudgeWallClock(Samples({0, 0}, 10), 2, kShiftOnly).kept);
  EXPECT_FALSE(JudgeWallClock(Samples({0, 0, 0}, 10), 1, kShiftOnly).kept);
}

}  // namespace
}  // namespace rehome::linux_guest
