// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/serial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace rehome {
namespace {

class FakeLine : public SerialLine {
 public:
  void Send(uint8_t byte) override { sent += static_cast<char>(byte); }
  size_t Receive(std::span<uint8_t> out) override {
    const size_t count = std::min(out.size(), typed.size());
    std::copy_n(typed.begin(), count, out.begin());
    typed.erase(0, count);
    return count;
  }
  std::string sent, typed;
};

std::string ReadAll(Serial& serial) {
  std::string text;
  while ((serial.Read(5) & 1) != 0) text += static_cast<char>(serial.Read(0));
  return text;
}

TEST(SerialTest, WhatTheGuestWritesGoesOut) {
  FakeLine line;
  Serial serial(line, 16);
  for (const char c : std::string("hello")) serial.Write(0, static_cast<uint8_t>(c));
  EXPECT_EQ(line.sent, "hello");
}

TEST(SerialTest, WhatWasTypedArrivesInOrderAtEitherDepth) {
  for (const size_t depth : {size_t{1}, kSerialFifoMax}) {
    FakeLine line;
    Serial serial(line, depth);
    line.typed = "a line that is longer than a FIFO";
    EXPECT_EQ(ReadAll(serial), "a line that is longer than a FIFO");
  }
}

TEST(SerialTest, TakesNoMoreFromTheLineThanItCanHold) {
  FakeLine line;
  Serial serial(line, 1);
  line.typed = "abc";
  EXPECT_EQ(serial.Read(5) & 1, 1);
  EXPECT_EQ(line.typed, "bc");
  EXPECT_EQ(serial.state().fifo_count, 1);
}

TEST(SerialTest, ReceivedBytesSurviveSaveAndRestore) {
  FakeLine line;
  Serial old_serial(line, kSerialFifoMax);
  line.typed = "0123456789";
  ASSERT_EQ(old_serial.Read(5) & 1, 1);
  ASSERT_EQ(old_serial.Read(0), '0');
  // A shallower one keeps what a deeper one held.
  Serial new_serial(line, 1);
  ASSERT_TRUE(new_serial.Restore(old_serial.state()));
  line.typed = "abc";
  EXPECT_EQ(ReadAll(new_serial), "123456789abc");
}

TEST(SerialTest, ImpossibleStateIsRefusedAndChangesNothing) {
  FakeLine line;
  Serial serial(line, 16);
  serial.Write(7, 0x5a);
  SerialState bad;
  bad.fifo_count = kSerialFifoMax + 1;
  EXPECT_FALSE(serial.Restore(bad));
  EXPECT_EQ(serial.Read(7), 0x5a);
}

TEST(SerialTest, DivisorLatchHidesDataAndInterruptEnable) {
  FakeLine line;
  Serial serial(line, 16);
  serial.Write(1, 0x05);
  serial.Write(3, 0x80);
  serial.Write(0, 0x01);
  serial.Write(1, 0x02);
  EXPECT_EQ(serial.Read(0), 0x01);
  EXPECT_EQ(serial.Read(1), 0x02);
  serial.Write(3, 0x03);
  EXPECT_EQ(serial.Read(1), 0x05);
  EXPECT_EQ(line.sent, "");
}

TEST(SerialTest, LoopbackReturnsWhatIsWrittenAndSendsNothing) {
  FakeLine line;
  Serial serial(line, 16);
  serial.Write(4, 0x1f);
  serial.Write(0, 'x');
  EXPECT_EQ(ReadAll(serial), "x");
  EXPECT_EQ(line.sent, "");
  EXPECT_EQ(serial.Read(6), 0xf0);
}

// Counts edges, as an interrupt controller does.
class FakeInterrupt : public InterruptLine {
 public:
  void Set(bool is_high) override {
    if (is_high) ++raised;
    high = is_high;
  }
  bool high = false;
  int raised = 0;
};

class SerialInterruptTest : public ::testing::Test {
 protected:
  FakeLine line_;
  FakeInterrupt interrupt_;
  Serial serial_{line_, kSerialFifoMax, &interrupt_};
};

TEST_F(SerialInterruptTest, WhoListensIsToldThatTheTransmitterIsEmptyUntilItAsks) {
  serial_.Write(1, 0x02);
  EXPECT_TRUE(interrupt_.high);
  EXPECT_EQ(serial_.Read(2), 0x02);
  EXPECT_FALSE(interrupt_.high);
  EXPECT_EQ(serial_.Read(2), 0x01);
  serial_.Write(0, 'x');
  EXPECT_TRUE(interrupt_.high);
  EXPECT_EQ(interrupt_.raised, 2);
  EXPECT_EQ(serial_.Read(2), 0x02);
  // Listening again to what it listens to already is no news.
  serial_.Write(1, 0x02);
  EXPECT_FALSE(interrupt_.high);
}

TEST_F(SerialInterruptTest, InputIsFetchedForAGuestThatWaitsForIt) {
  line_.typed = "ab";
  EXPECT_FALSE(serial_.awaits_input());
  serial_.Write(1, 0x01);
  EXPECT_TRUE(serial_.awaits_input());
  EXPECT_FALSE(interrupt_.high);
  serial_.FetchInput();
  EXPECT_TRUE(interrupt_.high);
  EXPECT_FALSE(serial_.awaits_input());
  EXPECT_EQ(serial_.Read(2), 0x04);
  EXPECT_EQ(serial_.Read(0), 'a');
  EXPECT_TRUE(interrupt_.high) << "there is more";
  EXPECT_EQ(serial_.Read(0), 'b');
  EXPECT_FALSE(interrupt_.high);
  EXPECT_TRUE(serial_.awaits_input());
}

TEST_F(SerialInterruptTest, ReceivedDataComesBeforeAnEmptyTransmitter) {
  line_.typed = "a";
  serial_.Write(1, 0x03);
  serial_.FetchInput();
  EXPECT_EQ(serial_.Read(2), 0x04);
  EXPECT_EQ(serial_.Read(0), 'a');
  EXPECT_TRUE(interrupt_.high);
  EXPECT_EQ(serial_.Read(2), 0x02);
  EXPECT_FALSE(interrupt_.high);
}

TEST_F(SerialInterruptTest, AThrownAwayFifoInterruptsNobody) {
  line_.typed = "a";
  serial_.Write(1, 0x01);
  serial_.FetchInput();
  serial_.Write(2, 0x02);
  EXPECT_FALSE(interrupt_.high);
}

TEST_F(SerialInterruptTest, WhatWasPendingIsRaisedAgainAfterAMigrationAndNotBefore) {
  serial_.Write(1, 0x02);
  FakeInterrupt other;
  Serial next(line_, kSerialFifoMax, &other);
  ASSERT_TRUE(next.Restore(serial_.state()));
  EXPECT_EQ(other.raised, 0);
  next.Reassert();
  EXPECT_TRUE(other.high);
  EXPECT_EQ(next.Read(2), 0x02);
  EXPECT_FALSE(other.high);
}

// A driver tells an XScale's port by a bit there.
TEST(SerialTest, OnlyTheInterruptsThatExistCanBeEnabled) {
  FakeLine line;
  Serial serial(line, 16);
  serial.Write(1, 0xff);
  EXPECT_EQ(serial.Read(1), 0x0f);
}

TEST(SerialTest, NeverMakesTheGuestWaitAndHasNoInterruptForWhoEnablesNone) {
  FakeLine line;
  Serial serial(line, 16);
  EXPECT_EQ(serial.Read(5) & 0x60, 0x60);
  EXPECT_EQ(serial.Read(2), 0x01);
  serial.Write(2, 0x01);
  EXPECT_EQ(serial.Read(2), 0xc1);
}

}  // namespace
}  // namespace rehome
