// SPDX-License-Identifier: Apache-2.0
//
// A target that owns the guest and cannot run it.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

// Waits until the thread sleeps in the kernel. False after 10 s, or if there is no such thread.
bool AwaitAsleep(const std::atomic<pid_t>& thread) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (std::chrono::steady_clock::now() < deadline) {
    std::ifstream stat("/proc/self/task/" + std::to_string(thread.load()) + "/stat");
    std::string id, name, state;
    if (thread != 0 && stat >> id >> name >> state && state == "S") return true;
    std::this_thread::yield();
  }
  return false;
}

TEST(Handover, ReportsAFirstRunThatFailed) {
  Handover handover(kMap);
  handover.page().first_run_fails.store(1);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::optional<rehome_event> failed = handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN_FAILED);
  ASSERT_TRUE(failed);
  EXPECT_STREQ(failed->text, "KVM_RUN: EFAULT");
  EXPECT_TRUE(handover.target().registrations().empty());
}

// RUNNING alone wakes nobody; what comes of it does, also if it is no good.
TEST(Handover, AFirstRunThatFailedWakesWhoeverWaitsForTheVerdict) {
  constexpr uint64_t kTooLongNs = 5'000'000'000;
  Handover handover(kMap);
  handover.page().first_run_fails.store(1);
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  std::atomic<pid_t> waiting = 0;
  uint64_t woken_ns = 0;
  std::thread waiter([&] {
    waiting = gettid();
    rehome_block_wait_verdict_in(&handover.block(), REHOME_VERDICTS_FINAL,
                                 rehome_monotonic_ns() + 2 * kTooLongNs);
    woken_ns = rehome_monotonic_ns();
  });
  EXPECT_TRUE(AwaitAsleep(waiting));
  const uint64_t begin_ns = rehome_monotonic_ns();
  handover.LetGo();
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN_FAILED));
  waiter.join();
  EXPECT_LT(woken_ns - begin_ns, kTooLongNs);
}

}  // namespace
}  // namespace rehome
