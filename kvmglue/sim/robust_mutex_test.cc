// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/robust_mutex.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <mutex>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

class RobustMutexTest : public ::testing::Test {
 protected:
  struct Shared {
    RobustMutex mutex;
    uint64_t count;
  };

  RobustMutexTest()
      : shared_(static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                                          MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    shared_->mutex.Init();
  }
  ~RobustMutexTest() override { munmap(shared_, sizeof(Shared)); }

  Shared* const shared_;
};

TEST_F(RobustMutexTest, TryLockFailsWhileAnotherProcessHoldsIt) {
  Child holder([&](BorrowedFd socket) {
    const std::lock_guard<RobustMutex> guard(shared_->mutex);
    return Send(socket) && Receive(socket) ? 0 : 1;
  });
  ASSERT_TRUE(Receive(holder.socket()));
  EXPECT_FALSE(shared_->mutex.try_lock());
  ASSERT_TRUE(Send(holder.socket()));
  EXPECT_EQ(holder.Wait(), 0);
  ASSERT_TRUE(shared_->mutex.try_lock());
  shared_->mutex.unlock();
}

TEST_F(RobustMutexTest, OwnersDeathFreesIt) {
  for (const bool by_trying : {false, true}) {
    Child holder([&](BorrowedFd socket) {
      shared_->mutex.lock();
      return Send(socket) && Receive(socket) ? 0 : 1;
    });
    ASSERT_TRUE(Receive(holder.socket()));
    holder.Kill();
    EXPECT_EQ(holder.Wait(), 128 + SIGKILL);
    if (by_trying) {
      ASSERT_TRUE(shared_->mutex.try_lock());
    } else {
      shared_->mutex.lock();
    }
    shared_->mutex.unlock();
    // And it is an ordinary mutex again.
    ASSERT_TRUE(shared_->mutex.try_lock());
    EXPECT_FALSE(shared_->mutex.try_lock());
    shared_->mutex.unlock();
  }
}

TEST_F(RobustMutexTest, WaiterGetsItWhenTheOwnerDies) {
  Child holder([&](BorrowedFd socket) {
    shared_->mutex.lock();
    return Send(socket) && Receive(socket) ? 0 : 1;
  });
  ASSERT_TRUE(Receive(holder.socket()));
  Child waiter([&](BorrowedFd socket) {
    Send(socket);
    const std::lock_guard<RobustMutex> guard(shared_->mutex);
    return 0;
  });
  ASSERT_TRUE(Receive(waiter.socket()));
  holder.Kill();
  holder.Wait();
  EXPECT_EQ(waiter.Wait(), 0);
}

TEST_F(RobustMutexTest, ExcludesProcessesFromEachOther) {
  constexpr uint64_t kRounds = 20'000;
  const auto count = [&](BorrowedFd) {
    for (uint64_t i = 0; i < kRounds; ++i) {
      const std::lock_guard<RobustMutex> guard(shared_->mutex);
      ++shared_->count;
    }
    return 0;
  };
  Child first(count);
  Child second(count);
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), 0);
  EXPECT_EQ(shared_->count, 2 * kRounds);
}

}  // namespace
}  // namespace rehome::sim
