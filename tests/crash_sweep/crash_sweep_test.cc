// SPDX-License-Identifier: Apache-2.0
//
// The daemon dies right before and right after each append to its journal, one after the other.
#include <gtest/gtest.h>

#include <cstdio>

#include "absl/strings/str_join.h"
#include "tests/crash_sweep/crash_case.h"

namespace rehome {
namespace {

using v1::Migration;

// A machine that stands still can make a migration shorter than the one that was counted.
constexpr int kMaxTries = 3;
// From admission to the end: QUEUED, PREFLIGHT, LAUNCHING, PREPARING_TARGET, ARMING, HANDING_OVER,
// two steps more, DONE.
constexpr uint64_t kFewestAppends = 9;

const CrashStory kStories[] = {
    {.name = "Success",
     .vm_type = "default",
     .memory_kind = "memfd",
     .policy = Migration::BEFORE_RESUME,
     .state = Migration::SUCCEEDED,
     .owner = Migration::TARGET},
    {.name = "SuccessWithMove",
     .vm_type = "sw-protected",
     .policy = Migration::KERNEL,
     .state = Migration::SUCCEEDED,
     .owner = Migration::TARGET},
    {.name = "Abort",
     .vm_type = "sw-protected",
     .policy = Migration::KERNEL,
     .first_target_dies_at = "claimed",
     .state = Migration::FAILED,
     .owner = Migration::SOURCE},
    {.name = "Rescue",
     .vm_type = "sw-protected",
     .policy = Migration::KERNEL,
     .first_target_dies_at = "moved",
     .state = Migration::SUCCEEDED,
     .owner = Migration::TARGET,
     .rescued = true},
};

class CrashSweepTest : public testing::TestWithParam<CrashStory> {};

// Without this the sweep would prove nothing: the story goes as it is called, and is counted.
uint64_t CountAppends(const CrashStory& story) {
  const CrashResult whole = CrashCase(story, {}).Run();
  EXPECT_TRUE(whole.problems.empty()) << absl::StrJoin(whole.problems, "\n");
  EXPECT_FALSE(whole.crashed);
  EXPECT_EQ(whole.record.state(), story.state) << whole.ending;
  EXPECT_EQ(whole.record.guest_owner(), story.owner) << whole.ending;
  EXPECT_EQ(whole.record.has_rescue(), story.rescued) << whole.ending;
  return whole.appends;
}

TEST_P(CrashSweepTest, ADaemonThatDiesAtAnyAppendIsFollowedByOneThatKnowsWhoHasTheGuest) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the library that is preloaded into the daemon would come before the sanitizer's";
#endif
  const CrashStory& story = GetParam();
  const uint64_t appends = CountAppends(story);
  ASSERT_GE(appends, kFewestAppends);
  int cases = 0;
  for (uint64_t append = 1; append <= appends; ++append) {
    for (const bool is_before : {true, false}) {
      CrashResult result;
      for (int tries = 0; tries < kMaxTries && !result.crashed && result.problems.empty();
           ++tries) {
        result = CrashCase(story, {append, is_before}).Run();
      }
      std::printf("%s: daemon dies %s append %lu of %lu: %s\n", story.name.c_str(),
                  is_before ? "before" : "after", append, appends, result.ending.c_str());
      std::fflush(stdout);
      EXPECT_TRUE(result.crashed) << "the append never came";
      EXPECT_TRUE(result.problems.empty()) << absl::StrJoin(result.problems, "\n");
      ++cases;
    }
  }
  std::printf("%s: %d cases\n", story.name.c_str(), cases);
}

INSTANTIATE_TEST_SUITE_P(Stories, CrashSweepTest, testing::ValuesIn(kStories),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace rehome
