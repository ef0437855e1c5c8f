// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/double_buffered.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

struct Pair {
  uint64_t first, second;
};

TEST(DoubleBufferedTest, ZeroMemoryIsAZeroValue) {
  static DoubleBuffered<Pair> value;
  EXPECT_EQ(value.Get().first, 0u);
}

TEST(DoubleBufferedTest, UpdateStartsFromTheCurrentValue) {
  DoubleBuffered<Pair> value = {};
  value.Set({1, 2});
  for (int i = 0; i < 3; ++i) value.Update([](Pair& pair) { ++pair.first; });
  EXPECT_EQ(value.Get().first, 4u);
  EXPECT_EQ(value.Get().second, 2u);
}

TEST(DoubleBufferedTest, DeathInTheMiddleOfAnUpdateLeavesTheOldValue) {
  auto* shared = static_cast<DoubleBuffered<Pair>*>(mmap(nullptr, sizeof(DoubleBuffered<Pair>),
                                                         PROT_READ | PROT_WRITE,
                                                         MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  shared->Set({1, 1});
  Child child([&](BorrowedFd) {
    shared->Update([](Pair& pair) {
      pair.first = 2;
      raise(SIGKILL);
      pair.second = 2;
    });
    return 0;
  });
  EXPECT_EQ(child.Wait(), 128 + SIGKILL);
  EXPECT_EQ(shared->Get().first, 1u);
  EXPECT_EQ(shared->Get().second, 1u);
  shared->Set({3, 3});
  EXPECT_EQ(shared->Get().first, 3u);
  munmap(shared, sizeof(*shared));
}

}  // namespace
}  // namespace rehome::sim
