// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/registers.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::kAvailableAt;
using testing::kConfigAt;
using testing::kDriverFeaturesAt;
using testing::kInterruptAckAt;
using testing::kInterruptStatusAt;
using testing::kQueueReadyAt;
using testing::kQueueSelectAt;
using testing::kQueueSizeAt;
using testing::kQueueSizeMaxAt;
using testing::kRamGpa;
using testing::kStatusAt;
using testing::TestDriver;
using testing::TestQueue;
using testing::TestRam;

constexpr uint64_t kFeature = 1u << 9;

DeviceProfile Profile() {
  DeviceProfile profile = {
      .device_id = kBlockDeviceId, .features = kFeatureVersion1 | kFeature, .queue_count = 1};
  profile.config[0] = 0x11;
  profile.config[kConfigBytes - 1] = 0x22;
  return profile;
}

class RegistersTest : public ::testing::Test {
 protected:
  void BringUp() {
    const TestQueue* queues[] = {&queue_};
    ASSERT_TRUE(driver_.BringUp(queues));
  }

  TestRam ram_;
  DeviceProfile profile_ = Profile();
  Registers registers_{profile_, ram_.memory()};
  TestDriver driver_{registers_};
  TestQueue queue_{ram_, kRamGpa, 8};
};

TEST_F(RegistersTest, SaysWhatItIs) {
  EXPECT_EQ(driver_.Read(0x00), 0x74726976u);
  EXPECT_EQ(driver_.Read(0x04), 2u);
  EXPECT_EQ(driver_.Read(0x08), kBlockDeviceId);
  EXPECT_EQ(driver_.DeviceFeatures(), kFeatureVersion1 | kFeature);
  driver_.Write(0x14, 2);
  EXPECT_EQ(driver_.Read(0x10), 0u);
  EXPECT_EQ(driver_.Read(kQueueSizeMaxAt), kMaxQueueSize);
  driver_.Write(kQueueSelectAt, 1);
  EXPECT_EQ(driver_.Read(kQueueSizeMaxAt), 0u);
  EXPECT_EQ(driver_.Read(0xb0), ~0u);  // no shared memory
  EXPECT_EQ(driver_.Read(0xfc), 0u);
}

TEST_F(RegistersTest, ConfigurationIsReadInAnyWidthAndNotBeyondItsEnd) {
  EXPECT_EQ(driver_.Read(kConfigAt), 0x11u);
  uint8_t byte = 0xff;
  registers_.Read(kConfigAt + kConfigBytes - 1, {&byte, 1});
  EXPECT_EQ(byte, 0x22);
  uint8_t wide[8] = {9, 9, 9, 9, 9, 9, 9, 9};
  registers_.Read(kConfigAt + kConfigBytes - 1, wide);
  EXPECT_EQ(wide[0], 0x22);
  EXPECT_EQ(wide[1], 0);
  registers_.Read(kConfigAt + kConfigBytes, wide);
  EXPECT_EQ(wide[0], 0);
  registers_.Read(UINT64_MAX, wide);
  EXPECT_EQ(wide[0], 0);
}

TEST_F(RegistersTest, ADriverThatFollowsTheStepsGoesLive) {
  EXPECT_FALSE(registers_.Serving(0));
  BringUp();
  EXPECT_TRUE(registers_.Serving(0));
  EXPECT_EQ(registers_.driver_features(), kFeatureVersion1 | kFeature);
}

TEST_F(RegistersTest, FeaturesAreASubsetWithVersion1) {
  EXPECT_FALSE(driver_.Negotiate(kFeature));
  EXPECT_FALSE(driver_.Negotiate(kFeatureVersion1 | 1));
  EXPECT_TRUE(driver_.Negotiate(kFeatureVersion1));
  // Too late.
  driver_.Write(kDriverFeaturesAt, ~0u);
  EXPECT_EQ(registers_.driver_features(), kFeatureVersion1);
}

TEST_F(RegistersTest, StepsAtTheWrongTimeDoNothing) {
  driver_.Write(kStatusAt, kStatusDriverOk);
  EXPECT_EQ(driver_.Read(kStatusAt), 0u);
  driver_.Write(kStatusAt, kStatusNeedsReset | kStatusAcknowledge);
  EXPECT_EQ(driver_.Read(kStatusAt), uint32_t{kStatusAcknowledge});
  EXPECT_FALSE(driver_.SetUp(0, queue_));  // before FEATURES_OK
  BringUp();
  driver_.Write(kStatusAt, kStatusAcknowledge);  // a driver clears no bit
  EXPECT_EQ(driver_.Read(kStatusAt), TestDriver::kLive);
  const VirtioState before = registers_.Save();
  driver_.Write(kQueueSizeAt, 4);
  driver_.Write(kAvailableAt, 0x4000);
  EXPECT_EQ(registers_.Save(), before);
}

TEST_F(RegistersTest, AccessesThatAreNotRegistersDoNothing) {
  const VirtioState before = registers_.Save();
  const uint8_t bytes[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  for (const size_t size : {1u, 2u, 8u}) {
    registers_.Write(kStatusAt, std::span(bytes, size));
    uint8_t out[8] = {7, 7, 7, 7, 7, 7, 7, 7};
    registers_.Read(0, std::span(out, size));
    EXPECT_EQ(out[0], 0);
  }
  registers_.Write(kStatusAt + 1, std::span(bytes, 4));
  registers_.Write(kConfigAt, std::span(bytes, 4));
  registers_.Write(kMmioBytes - 1, std::span(bytes, 4));
  EXPECT_EQ(registers_.Save(), before);
}

TEST_F(RegistersTest, AQueueThatCannotBeBreaksTheDevice) {
  ASSERT_TRUE(driver_.Negotiate(kFeatureVersion1));
  EXPECT_FALSE(driver_.SetUp(0, TestQueue(ram_, 0x10, 8)));
  EXPECT_TRUE((driver_.Read(kStatusAt) & kStatusNeedsReset) != 0);
  EXPECT_NE(registers_.fault(), nullptr);
  // Nobody was told that it is live, so nobody is interrupted (2.1.2).
  EXPECT_EQ(driver_.Read(kInterruptStatusAt), 0u);
  driver_.GoLive();
  EXPECT_FALSE(registers_.Serving(0));
  driver_.Write(kStatusAt, 0);
  EXPECT_EQ(registers_.fault(), nullptr);
  BringUp();
}

TEST_F(RegistersTest, ASizeThatIsTooLongIsNotCutToOneThatFits) {
  ASSERT_TRUE(driver_.Negotiate(kFeatureVersion1));
  driver_.Write(kQueueSizeAt, 0x10008);
  EXPECT_EQ(registers_.queue(0).size, 0);
}

TEST_F(RegistersTest, ABrokenDeviceInterruptsALiveDriver) {
  BringUp();
  EXPECT_TRUE(registers_.Break("a test"));
  EXPECT_EQ(driver_.Read(kInterruptStatusAt), uint32_t{kInterruptConfigChange});
  EXPECT_FALSE(registers_.Serving(0));
}

TEST_F(RegistersTest, InterruptsAreAcknowledgedBitByBit) {
  registers_.SetInterrupt(kInterruptUsedBuffer);
  registers_.SetInterrupt(kInterruptConfigChange);
  driver_.Write(kInterruptAckAt, kInterruptUsedBuffer);
  EXPECT_EQ(driver_.Read(kInterruptStatusAt), uint32_t{kInterruptConfigChange});
}

TEST_F(RegistersTest, ResetForgetsEverything) {
  const VirtioState fresh = registers_.Save();
  BringUp();
  registers_.SetInterrupt(kInterruptUsedBuffer);
  registers_.queue(0).index = 5;
  const uint8_t zero[4] = {};
  EXPECT_TRUE(Registers::Quiets(kStatusAt, zero));
  registers_.Write(kStatusAt, zero);
  EXPECT_EQ(registers_.Save(), fresh);
}

TEST_F(RegistersTest, AQueueTakenAwayComesBackWithAResetOnly) {
  BringUp();
  driver_.Write(kQueueReadyAt, 0);
  EXPECT_FALSE(registers_.Serving(0));
  driver_.Write(kQueueReadyAt, 1);
  EXPECT_FALSE(registers_.Serving(0));
}

// ---- state

TEST_F(RegistersTest, AStateGoesRoundAtEveryStep) {
  const std::function<void()> steps[] = {
      [] {},
      [&] { driver_.Negotiate(kFeatureVersion1); },
      [&] { driver_.SetUp(0, queue_); },
      [&] { driver_.GoLive(); },
      [&] { registers_.SetInterrupt(kInterruptUsedBuffer); },
      [&] { registers_.queue(0).index = 0xfff0; },
      [&] { registers_.Break("a test"); },
  };
  for (const auto& step : steps) {
    step();
    const VirtioState state = registers_.Save();
    Registers other(profile_, ram_.memory());
    ASSERT_TRUE(other.Restore(state).ok()) << other.Restore(state);
    EXPECT_EQ(other.Save(), state);
    EXPECT_EQ(other.Serving(0), registers_.Serving(0));
    EXPECT_EQ(other.fault() == nullptr, registers_.fault() == nullptr);
  }
}

TEST_F(RegistersTest, StatesThatCannotBeAreRefused) {
  BringUp();
  const VirtioState sound = registers_.Save();
  const std::function<void(VirtioState&)> spoils[] = {
      [](VirtioState& s) { s.magic = 0; },
      [](VirtioState& s) { s.version = 2; },
      [](VirtioState& s) { s.status |= 16; },
      [](VirtioState& s) { s.status &= ~uint32_t{kStatusFeaturesOk}; },
      [](VirtioState& s) { s.driver_features = kFeature; },
      [](VirtioState& s) { s.interrupt_status = 4; },
      [](VirtioState& s) { s.queue_count = 0; },
      [](VirtioState& s) { s.queue_count = kMaxQueues + 1; },
      [](VirtioState& s) { s.queues[1].size = 1; },
      [](VirtioState& s) { s.queues[0].ready = 2; },
      [](VirtioState& s) { s.queues[0].reserved = 1; },
      [](VirtioState& s) { s.queues[0].size = 6; },
      [](VirtioState& s) { s.queues[0].size = 512; },
      [](VirtioState& s) { s.queues[0] = {.index = 1}; },
  };
  for (const auto& spoil : spoils) {
    VirtioState spoilt = sound;
    spoil(spoilt);
    EXPECT_EQ(ReasonOf(registers_.Restore(spoilt)), "VIRTIO_STATE_INVALID") << &spoil - spoils;
    EXPECT_EQ(registers_.Save(), sound);
  }
}

TEST_F(RegistersTest, StatesOfAnotherDeviceAreRefused) {
  BringUp();
  const VirtioState sound = registers_.Save();
  const std::function<void(VirtioState&)> spoils[] = {
      [](VirtioState& s) { s.device_id = kNetDeviceId; },
      [](VirtioState& s) { s.queue_count = 2; },
      [](VirtioState& s) { s.driver_features |= 1; },
      [](VirtioState& s) { s.config[3] ^= 1; },
      [](VirtioState& s) { s.queues[0].used = 0x1000; },
      [](VirtioState& s) { s.queues[0].descriptors += 1; },
  };
  for (const auto& spoil : spoils) {
    VirtioState spoilt = sound;
    spoil(spoilt);
    EXPECT_EQ(ReasonOf(registers_.Restore(spoilt)), "VIRTIO_DEVICE_MISMATCH") << &spoil - spoils;
    EXPECT_EQ(registers_.Save(), sound);
  }
}

}  // namespace
}  // namespace rehome::virtio
