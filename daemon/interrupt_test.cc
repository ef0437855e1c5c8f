// SPDX-License-Identifier: Apache-2.0
#include "daemon/interrupt.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <thread>
#include <vector>

namespace rehome {
namespace {

std::unique_ptr<Interrupt> NewInterrupt() {
  auto interrupt = Interrupt::Create();
  EXPECT_TRUE(interrupt.ok()) << interrupt.status();
  return *std::move(interrupt);
}

bool Readable(BorrowedFd fd, int timeout_ms) {
  pollfd entry{fd.raw(), POLLIN, 0};
  return poll(&entry, 1, timeout_ms) == 1 && (entry.revents & POLLIN) != 0;
}

TEST(InterruptTest, IsQuietUntilItIsRaised) {
  const auto interrupt = NewInterrupt();
  EXPECT_FALSE(interrupt->raised());
  EXPECT_EQ(interrupt->cause(), StopCause::kNone);
  EXPECT_FALSE(Readable(interrupt->fd(), 0));
}

TEST(InterruptTest, StaysRaisedAndReadableForEveryLaterWaiter) {
  const auto interrupt = NewInterrupt();
  EXPECT_TRUE(interrupt->Raise(StopCause::kDeadline));
  for (int waiter = 0; waiter < 3; ++waiter) EXPECT_TRUE(Readable(interrupt->fd(), 0));
  EXPECT_TRUE(interrupt->raised());
}

TEST(InterruptTest, TheFirstCauseStays) {
  const auto interrupt = NewInterrupt();
  EXPECT_TRUE(interrupt->Raise(StopCause::kDeadline));
  EXPECT_FALSE(interrupt->Raise(StopCause::kCancelled));
  EXPECT_EQ(interrupt->cause(), StopCause::kDeadline);
}

TEST(InterruptTest, ExactlyOneOfManyRaisersIsTheFirst) {
  const auto interrupt = NewInterrupt();
  std::atomic<int> firsts = 0;
  std::vector<std::thread> raisers;
  for (int i = 0; i < 8; ++i) {
    raisers.emplace_back([&] { firsts += interrupt->Raise(StopCause::kCancelled) ? 1 : 0; });
  }
  for (std::thread& raiser : raisers) raiser.join();
  EXPECT_EQ(firsts, 1);
}

TEST(InterruptTest, WakesAThreadThatWaitsInPoll) {
  const auto interrupt = NewInterrupt();
  constexpr int kBoundMs = 30'000;
  std::atomic<bool> woken = false;
  std::thread waiter([&] { woken = Readable(interrupt->fd(), kBoundMs); });
  interrupt->Raise(StopCause::kShutdown);
  waiter.join();
  EXPECT_TRUE(woken);
}

TEST(InterruptTest, ItsDescriptorIsClosedOnExec) {
  const auto interrupt = NewInterrupt();
  EXPECT_EQ(fcntl(interrupt->fd().raw(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

}  // namespace
}  // namespace rehome
