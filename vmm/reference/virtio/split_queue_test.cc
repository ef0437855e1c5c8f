// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/split_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::kRamBytes;
using testing::kRamGpa;
using testing::TestQueue;
using testing::TestRam;

constexpr uint64_t kBuffer = kRamGpa + 0x8000;
constexpr Descriptor kOut = {.gpa = kBuffer, .length = 16, .flags = 0, .next = 0};
constexpr Descriptor kIn = {
    .gpa = kBuffer + 64, .length = 8, .flags = kDescriptorWritable, .next = 0};

class SplitQueueTest : public ::testing::Test {
 protected:
  // The fault that the next chain is, or "".
  std::string FaultOf() {
    const Peeked peeked = PeekChain(ram_.memory(), state_, chain_);
    EXPECT_FALSE(peeked.found && peeked.fault != nullptr);
    return peeked.fault == nullptr ? "" : peeked.fault;
  }

  TestRam ram_;
  TestQueue queue_{ram_, kRamGpa, 8};
  QueueState state_ = queue_.State();
  Chain chain_;
};

TEST_F(SplitQueueTest, AnEmptyQueueHasNothing) {
  EXPECT_FALSE(PeekChain(ram_.memory(), state_, chain_).found);
  EXPECT_EQ(FaultOf(), "");
}

TEST_F(SplitQueueTest, AChainIsSeenWholeAndStaysUntilItIsGivenBack) {
  const Descriptor chain[] = {kOut, kOut, kIn};
  queue_.SetChain(2, chain);
  queue_.Offer(2);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(PeekChain(ram_.memory(), state_, chain_).found);
    EXPECT_EQ(chain_.head, 2);
    EXPECT_EQ(chain_.readable_bytes(), 32u);
    EXPECT_EQ(chain_.writable_bytes(), 8u);
    EXPECT_EQ(state_.index, 0);
  }
  const Completed completed = CompleteChain(ram_.memory(), state_, chain_.head, 5);
  EXPECT_TRUE(completed.interrupt);
  EXPECT_EQ(completed.fault, nullptr);
  EXPECT_EQ(state_.index, 1);
  const std::optional<UsedElement> used = queue_.TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, 2u);
  EXPECT_EQ(used->length, 5u);
  EXPECT_FALSE(PeekChain(ram_.memory(), state_, chain_).found);
}

TEST_F(SplitQueueTest, TheDriverMayDoWithoutInterrupts) {
  queue_.SetDescriptor(0, kOut);
  queue_.Offer(0);
  queue_.SetAvailableFlags(kAvailableNoInterrupt);
  EXPECT_FALSE(CompleteChain(ram_.memory(), state_, 0, 0).interrupt);
}

// Indices count modulo 2^16 and rings modulo their size.
TEST_F(SplitQueueTest, IndicesWrapAround) {
  queue_.SetDescriptor(0, kOut);
  for (uint32_t i = 0; i < (1 << 16) + 5; ++i) {
    queue_.Offer(0);
    ASSERT_TRUE(PeekChain(ram_.memory(), state_, chain_).found) << i;
    ASSERT_EQ(CompleteChain(ram_.memory(), state_, 0, i).fault, nullptr);
    ASSERT_EQ(queue_.TakeUsed()->length, i);
  }
  EXPECT_EQ(state_.index, 5);
}

TEST_F(SplitQueueTest, AFullQueueIsAsItShouldBeAndOneMoreIsNot) {
  queue_.SetAvailableIndex(8);
  queue_.SetDescriptor(0, kOut);
  EXPECT_EQ(FaultOf(), "");
  queue_.SetAvailableIndex(9);
  EXPECT_EQ(FaultOf(), "more chains than the queue has entries");
  queue_.SetAvailableIndex(0xffff);  // "minus one"
  EXPECT_EQ(FaultOf(), "more chains than the queue has entries");
}

TEST_F(SplitQueueTest, HostileChainsAreFaults) {
  struct Case {
    const char* name;
    std::array<Descriptor, 3> descriptors;  // 0, 1, 2
    const char* fault;
  };
  constexpr uint16_t kNext = kDescriptorNext;
  constexpr uint16_t kWrite = kDescriptorWritable;
  const Case cases[] = {
      {"to itself", {{{kBuffer, 1, kNext, 0}}}, "a chain that does not end"},
      {"in a circle",
       {{{kBuffer, 1, kNext, 1}, {kBuffer, 1, kNext, 2}, {kBuffer, 1, kNext, 0}}},
       "a chain that does not end"},
      {"next beyond", {{{kBuffer, 1, kNext, 8}}}, "a descriptor number beyond the queue"},
      {"next far beyond", {{{kBuffer, 1, kNext, 0xffff}}}, "a descriptor number beyond the queue"},
      {"no bytes", {{{kBuffer, 0, 0, 0}}}, "a descriptor of no bytes"},
      {"no bytes, later",
       {{{kBuffer, 1, kNext, 1}, {kBuffer, 0, kWrite, 0}}},
       "a descriptor of no bytes"},
      {"indirect", {{{kBuffer, 16, kDescriptorIndirect, 0}}}, "an indirect descriptor"},
      {"wrong order",
       {{{kBuffer, 1, kWrite | kNext, 1}, {kBuffer, 1, 0, 0}}},
       "a descriptor to be read after one to be written"},
      {"below RAM", {{{kRamGpa - 1, 2, 0, 0}}}, "a buffer is not in RAM"},
      {"over the end", {{{kRamGpa + kRamBytes - 1, 2, 0, 0}}}, "a buffer is not in RAM"},
      {"wraps around", {{{UINT64_MAX, 2, 0, 0}}}, "a buffer is not in RAM"},
      {"as long as can be", {{{kRamGpa, UINT32_MAX, kWrite, 0}}}, "a buffer is not in RAM"},
      {"at the last byte", {{{kRamGpa + kRamBytes - 1, 1, 0, 0}}}, ""},
  };
  queue_.Offer(0);
  for (const Case& hostile : cases) {
    for (uint16_t i = 0; i < hostile.descriptors.size(); ++i) {
      queue_.SetDescriptor(i, hostile.descriptors[i]);
    }
    EXPECT_EQ(FaultOf(), hostile.fault) << hostile.name;
  }
}

TEST_F(SplitQueueTest, AHeadBeyondTheQueueIsAFault) {
  queue_.Offer(8);
  EXPECT_EQ(FaultOf(), "a descriptor number beyond the queue");
}

TEST_F(SplitQueueTest, AChainMayHaveAsManyDescriptorsAsTheQueue) {
  const std::vector<Descriptor> chain(8, kOut);
  queue_.SetChain(0, chain);
  queue_.Offer(0);
  EXPECT_EQ(FaultOf(), "");
  EXPECT_EQ(chain_.readable.size(), 8u);
}

TEST_F(SplitQueueTest, QueuesThatCannotBeAreRefused) {
  EXPECT_EQ(CheckQueue(ram_.memory(), state_), nullptr);
  const std::function<void(QueueState&)> spoils[] = {
      [](QueueState& q) { q.size = 0; },
      [](QueueState& q) { q.size = 3; },
      [](QueueState& q) { q.size = 512; },
      [](QueueState& q) { q.descriptors += 8; },
      [](QueueState& q) { q.available += 1; },
      [](QueueState& q) { q.used += 2; },
      [](QueueState& q) { q.descriptors = 0; },
      [](QueueState& q) { q.descriptors = kRamGpa + kRamBytes - 112; },
      [](QueueState& q) { q.available = kRamGpa + kRamBytes - 20; },
      [](QueueState& q) { q.used = kRamGpa + kRamBytes - 68; },
      [](QueueState& q) { q.used = UINT64_MAX - 3; },
  };
  for (const auto& spoil : spoils) {
    QueueState spoilt = state_;
    spoil(spoilt);
    EXPECT_NE(CheckQueue(ram_.memory(), spoilt), nullptr) << &spoil - spoils;
  }
}

// ---- memory and cursors

TEST(GuestMemoryTest, RegionsThatFollowEachOtherAreOneRange) {
  TestRam ram;
  const uint64_t seam = kRamGpa + 0x90000;
  ram.Put(seam - 3, uint64_t{0x1122334455667788});
  EXPECT_EQ(ram.Get<uint64_t>(seam - 3), 0x1122334455667788u);
  EXPECT_TRUE(ram.memory().Contains(kRamGpa, kRamBytes));
  EXPECT_FALSE(ram.memory().Contains(kRamGpa, kRamBytes + 1));
  EXPECT_TRUE(ram.memory().Contains(kRamGpa + kRamBytes, 0));
  EXPECT_FALSE(ram.memory().Contains(kRamGpa + kRamBytes + 1, 0));
  EXPECT_FALSE(ram.memory().Contains(UINT64_MAX, UINT64_MAX));
}

TEST(GuestMemoryTest, IndicesAreAlignedAndInRam) {
  TestRam ram;
  EXPECT_TRUE(ram.memory().StoreIndex(kRamGpa, 7));
  EXPECT_EQ(ram.memory().LoadIndex(kRamGpa), 7);
  EXPECT_FALSE(ram.memory().StoreIndex(kRamGpa + 1, 7));
  EXPECT_FALSE(ram.memory().LoadIndex(kRamGpa + 1).has_value());
  EXPECT_FALSE(ram.memory().LoadIndex(kRamGpa + kRamBytes).has_value());
  EXPECT_FALSE(ram.memory().LoadIndex(kRamGpa - 2).has_value());
}

TEST(ChainCursorTest, GoesOverSegmentsAndNotBeyond) {
  TestRam ram;
  const Segment segments[] = {{kRamGpa, 3}, {kRamGpa + 0x100, 5}};
  const std::array<uint8_t, 8> bytes = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_TRUE(ChainCursor(segments).Write(ram.memory(), std::as_bytes(std::span(bytes))));
  EXPECT_EQ(ram.Get<uint8_t>(kRamGpa + 2), 3);
  EXPECT_EQ(ram.Get<uint8_t>(kRamGpa + 3), 0);
  EXPECT_EQ(ram.Get<uint8_t>(kRamGpa + 0x100), 4);
  std::array<uint8_t, 4> read = {};
  ChainCursor cursor(segments);
  EXPECT_TRUE(cursor.Skip(4));
  EXPECT_TRUE(cursor.Read(ram.memory(), std::as_writable_bytes(std::span(read))));
  EXPECT_EQ(read, (std::array<uint8_t, 4>{5, 6, 7, 8}));
  EXPECT_FALSE(cursor.Skip(1));
  EXPECT_FALSE(cursor.Read(ram.memory(), std::as_writable_bytes(std::span(read))));
}

}  // namespace
}  // namespace rehome::virtio
