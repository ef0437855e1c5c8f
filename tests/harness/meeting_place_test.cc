// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/meeting_place.h"

#include <unistd.h>

#include <future>
#include <string>

#include "gtest/gtest.h"
#include "vmm/reference/test_hooks.h"

namespace rehome::harness {
namespace {

constexpr std::chrono::milliseconds kBound{30'000};
constexpr std::chrono::milliseconds kMoment{50};

TEST(MeetingPlace, HoldsTheFirstWhoComesUntilItIsReleasedAndNobodyAfterwards) {
  auto place = MeetingPlace::Open();
  ASSERT_TRUE(place.ok()) << place.status();
  const TestHooks hooks = {.meet_at = {HookPoint::kClaimed, HookPoint::kRunning},
                           .meet_socket = place->path()};
  std::future<void> vmm = std::async(std::launch::async, [&] { hooks.Reach(HookPoint::kClaimed); });
  EXPECT_TRUE(place->SomebodyIsHere(kBound));
  const auto arrival = place->Await(kBound);
  ASSERT_TRUE(arrival.ok()) << arrival.status();
  EXPECT_EQ(arrival->place, "claimed");
  EXPECT_EQ(arrival->pid, getpid());
  EXPECT_EQ(vmm.wait_for(kMoment), std::future_status::timeout) << "it was not held";
  place->Release();
  EXPECT_EQ(vmm.wait_for(kBound), std::future_status::ready);
  hooks.Reach(HookPoint::kRunning);
}

TEST(MeetingPlace, MeetsTheNextOneAfterWhomItLetGo) {
  auto place = MeetingPlace::Open();
  ASSERT_TRUE(place.ok()) << place.status();
  const TestHooks hooks = {.meet_at = {HookPoint::kClaimed, HookPoint::kRunning},
                           .meet_socket = place->path()};
  std::future<void> vmm = std::async(std::launch::async, [&] {
    hooks.Reach(HookPoint::kClaimed);
    hooks.Reach(HookPoint::kRunning);
  });
  ASSERT_TRUE(place->Await(kBound).ok());
  place->LetGo();
  const auto next = place->Await(kBound);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->place, "running");
  EXPECT_EQ(vmm.wait_for(kMoment), std::future_status::timeout) << "it was not held";
  place->Release();
  EXPECT_EQ(vmm.wait_for(kBound), std::future_status::ready);
}

TEST(MeetingPlace, SaysSoWhenNobodyComes) {
  auto place = MeetingPlace::Open();
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_FALSE(place->SomebodyIsHere(kMoment));
  EXPECT_EQ(place->Await(kMoment).status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace rehome::harness
