// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/devices.h"

#include <gtest/gtest.h>

#include <array>

#include "vmm/reference/guest/guest_abi.h"

namespace rehome {
namespace {

class DevicesTest : public testing::Test {
 protected:
  // One access of `width` bytes; returns what an IN has read.
  std::array<uint8_t, 4> Access(uint16_t port, bool is_out, uint8_t width,
                                std::array<uint8_t, 4> data = {}) {
    outcome_ = devices_.Handle({.port = port,
                                .is_out = is_out,
                                .width = width,
                                .count = 1,
                                .data = std::span(data).first(width)});
    return data;
  }

  Devices devices_{*Console::Unplugged(), kSerialFifoMax};
  PortOutcome outcome_ = PortOutcome::kContinue;
};

TEST_F(DevicesTest, TheSerialPortIsWhereItBelongs) {
  Access(kSerialPort + 7, true, 1, {0x5a});
  EXPECT_EQ(Access(kSerialPort + 7, false, 1)[0], 0x5a);
  EXPECT_EQ(Access(kSerialPort + 8, false, 1)[0], 0xff);
  EXPECT_EQ(outcome_, PortOutcome::kContinue);
}

TEST_F(DevicesTest, AWideAccessGoesToConsecutivePorts) {
  Access(kSerialPort + 3, true, 2, {0x03, 0x10});  // line and modem control
  EXPECT_EQ(Access(kSerialPort + 3, false, 1)[0], 0x03);
  EXPECT_EQ(Access(kSerialPort + 4, false, 1)[0], 0x10);
}

TEST_F(DevicesTest, APortWithoutDeviceReadsAsOnes) {
  const auto data = Access(0x80, false, 4);
  EXPECT_EQ(data, (std::array<uint8_t, 4>{0xff, 0xff, 0xff, 0xff}));
}

TEST_F(DevicesTest, TheExitPortEndsTheGuest) {
  Access(REHOME_GUEST_EXIT_PORT, true, 1, {REHOME_GUEST_EXIT_POWER_OFF});
  EXPECT_EQ(outcome_, PortOutcome::kPowerOff);
  Access(REHOME_GUEST_EXIT_PORT, true, 1, {REHOME_GUEST_EXIT_FAULT});
  EXPECT_EQ(outcome_, PortOutcome::kGuestFault);
}

TEST_F(DevicesTest, EachRestoreIsAHop) {
  Access(kSerialPort + 7, true, 1, {0x5a});
  DeviceState state;
  devices_.Save(state);
  Devices next(*Console::Unplugged(), 1);
  ASSERT_TRUE(next.Restore(state));
  EXPECT_EQ(next.hops(), 1u);
  next.Save(state);
  Devices third(*Console::Unplugged(), 1);
  ASSERT_TRUE(third.Restore(state));
  EXPECT_EQ(third.hops(), 2u);
  EXPECT_EQ(state.serial.scratch, 0x5a);
}

TEST_F(DevicesTest, ImpossibleStateIsRefused) {
  DeviceState state;
  state.serial.fifo_count = kSerialFifoMax + 1;
  EXPECT_FALSE(devices_.Restore(state));
  EXPECT_EQ(devices_.hops(), 0u);
}

}  // namespace
}  // namespace rehome
