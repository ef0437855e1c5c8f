// SPDX-License-Identifier: Apache-2.0
#include "daemon/wakeup.h"

#include <sys/resource.h>

#include <chrono>
#include <future>
#include <memory>

#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using Result = Wakeup::Result;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Only a test that fails waits that long.
steady_clock::time_point FarAway() { return steady_clock::now() + std::chrono::seconds(20); }

TEST(WakeupTest, ASignalBeforeTheWaitIsNotLostAndUsedUpOnce) {
  Wakeup wakeup = *Wakeup::Create();
  wakeup.Signal();
  wakeup.Signal();
  EXPECT_EQ(wakeup.Wait(FarAway(), nullptr), Result::kSignalled);
  EXPECT_EQ(wakeup.Wait(steady_clock::now(), nullptr), Result::kTimedOut);
}

TEST(WakeupTest, WakesAThreadThatWaits) {
  Wakeup wakeup = *Wakeup::Create();
  auto waiting = std::async(std::launch::async, [&] { return wakeup.Wait(FarAway(), nullptr); });
  wakeup.Signal();
  EXPECT_EQ(waiting.get(), Result::kSignalled);
}

TEST(WakeupTest, AnInterruptEndsTheWaitUnlessThereIsASignal) {
  Wakeup wakeup = *Wakeup::Create();
  std::unique_ptr<Interrupt> interrupt = *Interrupt::Create();
  auto waiting =
      std::async(std::launch::async, [&] { return wakeup.Wait(FarAway(), interrupt.get()); });
  interrupt->Raise();
  EXPECT_EQ(waiting.get(), Result::kInterrupted);
  EXPECT_EQ(wakeup.Wait(FarAway(), interrupt.get()), Result::kInterrupted) << "it stays raised";
  wakeup.Signal();
  EXPECT_EQ(wakeup.Wait(FarAway(), interrupt.get()), Result::kSignalled) << "what happened counts";
}

TEST(WakeupTest, TheDeadlineEndsTheWaitAndNotEarlier) {
  Wakeup wakeup = *Wakeup::Create();
  const auto deadline = steady_clock::now() + milliseconds(20);
  EXPECT_EQ(wakeup.Wait(deadline, nullptr), Result::kTimedOut);
  EXPECT_GE(steady_clock::now(), deadline);
  EXPECT_EQ(wakeup.Wait(steady_clock::time_point::min(), nullptr), Result::kTimedOut);
}

TEST(WakeupTest, SaysWhenNoDescriptorIsLeft) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = Wakeup::Create().status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(ReasonOf(status), "FD_LIMIT");
}

}  // namespace
}  // namespace rehome
