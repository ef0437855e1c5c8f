// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/devices.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"
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
  ASSERT_TRUE(devices_.Freeze().ok());
  ASSERT_TRUE(devices_.Save(state).ok());
  Devices next(*Console::Unplugged(), 1);
  ASSERT_TRUE(next.Restore(state).ok());
  EXPECT_EQ(next.hops(), 1u);
  ASSERT_TRUE(next.Save(state).ok());
  Devices third(*Console::Unplugged(), 1);
  ASSERT_TRUE(third.Restore(state).ok());
  EXPECT_EQ(third.hops(), 2u);
  EXPECT_EQ(state.serial.scratch, 0x5a);
}

TEST_F(DevicesTest, ImpossibleStateIsRefused) {
  DeviceState state;
  state.serial.fifo_count = kSerialFifoMax + 1;
  EXPECT_EQ(ReasonOf(devices_.Restore(state)), "STATE_MALFORMED");
  EXPECT_EQ(devices_.hops(), 0u);
  state = {};
  state.virtio_count = 1;
  EXPECT_EQ(ReasonOf(devices_.Restore(state)), "STATE_MALFORMED");
}

TEST_F(DevicesTest, MemoryWithoutDeviceReadsAsOnes) {
  std::array<uint8_t, 4> data = {};
  devices_.HandleMmio({.gpa = kVirtioMmioBase, .is_write = false, .data = data});
  EXPECT_EQ(data, (std::array<uint8_t, 4>{0xff, 0xff, 0xff, 0xff}));
}

TEST_F(DevicesTest, TheKeyboardsResetIsForLinuxOnly) {
  Access(0x64, true, 1, {0xfe});
  EXPECT_EQ(outcome_, PortOutcome::kContinue);
}

// Level changes, each of which somebody may wait for.
class AwaitedInterrupt : public InterruptLine {
 public:
  void Set(bool is_high) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    high_ = is_high;
    changed_.notify_all();
  }
  bool Await(bool wanted) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return high_ == wanted; });
  }
  bool high() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return high_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool high_ = false;
};

// A console with a client, over sockets as they come from another VMM.
class LinuxDevicesTest : public DevicesTest {
 protected:
  LinuxDevicesTest() {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    client_ = UniqueFd(pair[0]);
    console_end_ = UniqueFd(pair[1]);
  }
  std::unique_ptr<Devices> MakeDevices() {
    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un any = {.sun_family = AF_UNIX, .sun_path = {}};
    EXPECT_EQ(bind(listener.borrow().raw(), reinterpret_cast<const sockaddr*>(&any),
                   sizeof(any.sun_family)),
              0);
    EXPECT_EQ(listen(listener.borrow().raw(), 1), 0);
    auto console = Console::Adopt(std::move(listener), *Duplicate(console_end_.borrow()));
    auto interrupt = std::make_unique<AwaitedInterrupt>();
    interrupt_ = interrupt.get();
    return std::make_unique<Devices>(
        *std::move(console), kSerialFifoMax,
        LinuxDevices{.serial_interrupt = std::move(interrupt), .virtio = nullptr});
  }
  static uint8_t Read(Devices& devices, uint16_t offset) {
    uint8_t byte = 0;
    devices.Handle({.port = static_cast<uint16_t>(kSerialPort + offset), .data = {&byte, 1}});
    return byte;
  }
  static void Write(Devices& devices, uint16_t offset, uint8_t byte) {
    devices.Handle(
        {.port = static_cast<uint16_t>(kSerialPort + offset), .is_out = true, .data = {&byte, 1}});
  }
  void Type(char byte) { ASSERT_EQ(send(client_.borrow().raw(), &byte, 1, MSG_NOSIGNAL), 1); }

  UniqueFd client_, console_end_;
  AwaitedInterrupt* interrupt_ = nullptr;
};

TEST_F(LinuxDevicesTest, WhatIsTypedInterruptsAGuestThatSleeps) {
  const auto devices = MakeDevices();
  Write(*devices, 1, 0x01);
  for (const char byte : {'a', 'b'}) {
    Type(byte);
    ASSERT_TRUE(interrupt_->Await(true));
    EXPECT_EQ(Read(*devices, 0), byte);
    EXPECT_FALSE(interrupt_->high());
  }
}

// For a target whose serial port is smaller.
TEST_F(LinuxDevicesTest, WithALimitOneByteIsFetchedAndTheRestStaysInTheSocket) {
  const auto devices = MakeDevices();
  devices->LimitInput(1);
  for (const char byte : {'a', 'b'}) Type(byte);
  Write(*devices, 1, 0x01);
  ASSERT_TRUE(interrupt_->Await(true));
  ASSERT_TRUE(devices->Quiesce(std::chrono::seconds(10)).ok()) << "one byte fits";
  ASSERT_TRUE(devices->Freeze().ok());
  DeviceState state;
  ASSERT_TRUE(devices->Save(state).ok());
  EXPECT_EQ(state.serial.fifo_count, 1);
  EXPECT_EQ(state.serial.fifo[0], 'a');
}

TEST_F(LinuxDevicesTest, QuiescingWaitsUntilTheGuestHasReadWhatIsBeyondTheLimit) {
  const auto devices = MakeDevices();
  for (const char byte : {'a', 'b', 'c'}) Type(byte);
  EXPECT_EQ(Read(*devices, 5) & 1, 1) << "all three are in the port";
  devices->LimitInput(1);
  const absl::Status busy = devices->Quiesce(std::chrono::milliseconds(1));
  EXPECT_EQ(ReasonOf(busy), "DEVICE_BUSY");
  std::thread guest([&] {
    for (const char byte : {'a', 'b'}) EXPECT_EQ(Read(*devices, 0), byte);
  });
  EXPECT_TRUE(devices->Quiesce(std::chrono::seconds(60)).ok());
  guest.join();
  EXPECT_EQ(Read(*devices, 0), 'c');
}

TEST_F(LinuxDevicesTest, WhatIsTypedInAPauseReachesTheOtherVmmAlone) {
  const auto source = MakeDevices();
  Write(*source, 1, 0x01);
  ASSERT_TRUE(source->Freeze().ok());
  Type('a');
  DeviceState state;
  ASSERT_TRUE(source->Save(state).ok());
  EXPECT_EQ(state.serial.fifo_count, 0);
  const auto target = MakeDevices();
  ASSERT_TRUE(target->Restore(state).ok());
  EXPECT_FALSE(interrupt_->high());
  target->Thaw();
  ASSERT_TRUE(interrupt_->Await(true));
  EXPECT_EQ(Read(*target, 0), 'a');
  source->Thaw();
  EXPECT_EQ(Read(*source, 5) & 1, 0) << "it is nobody else's";
}

TEST_F(LinuxDevicesTest, AMigrationThatIsGivenUpLeavesInputWhereItWas) {
  const auto devices = MakeDevices();
  Write(*devices, 1, 0x01);
  ASSERT_TRUE(devices->Freeze().ok());
  Type('a');
  devices->Thaw();
  ASSERT_TRUE(interrupt_->Await(true));
  EXPECT_EQ(Read(*devices, 0), 'a');
}

TEST_F(LinuxDevicesTest, AClientThatHasLeftInterruptsNobodyForEver) {
  const auto devices = MakeDevices();
  Write(*devices, 1, 0x01);
  Type('a');
  client_.Reset();
  ASSERT_TRUE(interrupt_->Await(true));
  EXPECT_EQ(Read(*devices, 0), 'a');
  EXPECT_FALSE(interrupt_->high());
}

TEST_F(LinuxDevicesTest, TheKeyboardsResetEndsTheGuest) {
  const auto devices = MakeDevices();
  uint8_t reset = 0xfe;
  EXPECT_EQ(devices->Handle({.port = 0x64, .is_out = true, .data = {&reset, 1}}),
            PortOutcome::kReset);
}

}  // namespace
}  // namespace rehome
