// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/block.h"
#include "vmm/reference/virtio/test_backend.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::AwaitInterrupts;
using testing::BlockStream;
using testing::kInterruptAckAt;
using testing::kInterruptStatusAt;
using testing::kQueueReadyAt;
using testing::kRamGpa;
using testing::kStatusAt;
using testing::TakeInterrupts;
using testing::TestDriver;
using testing::TestQueue;
using testing::TestRam;

constexpr std::chrono::milliseconds kLong(testing::kTestTimeoutMs);
constexpr std::chrono::milliseconds kShort(1);

// A block device whose requests wait while the gate is shut.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = std::make_unique<testing::WatchedBackend>(testing::StreamBackend(disk_.borrow()),
                                                             [this](uint32_t, const Chain&) {
                                                               in_hand_ = true;
                                                               in_hand_.notify_all();
                                                               shut_.wait(true);
                                                             });
    device_ = VirtioDevice::Create(std::move(backend), ram_.memory(), [this](std::string_view why) {
                faults_.emplace_back(why);
              }).value();
    driver_ = std::make_unique<TestDriver>(*device_);
  }
  void TearDown() override { Open(); }

  void BringUp() {
    const TestQueue* queues[] = {&queue_};
    ASSERT_TRUE(driver_->BringUp(queues));
  }
  void Shut() { shut_ = true; }
  void Open() {
    shut_ = false;
    shut_.notify_all();
  }
  void Notify() { driver_->Notify(0); }

  TestRam ram_;
  TestQueue queue_{ram_, kRamGpa, kMaxQueueSize};
  UniqueFd disk_ = testing::NewStreamDisk();
  BlockStream stream_{ram_, queue_, 4};
  std::vector<std::string> faults_;
  std::atomic<bool> in_hand_ = false;
  std::atomic<bool> shut_ = false;
  std::unique_ptr<VirtioDevice> device_;
  std::unique_ptr<TestDriver> driver_;
};

TEST_F(DeviceTest, ServesWhatItIsNotifiedOf) {
  device_->Start();
  BringUp();
  while (!stream_.all_offered()) stream_.Offer();
  Notify();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return stream_.AllUsed(); }));
  EXPECT_EQ(driver_->Read(kInterruptStatusAt), uint32_t{kInterruptUsedBuffer});
  driver_->Write(kInterruptAckAt, kInterruptUsedBuffer);
  EXPECT_EQ(driver_->Read(kInterruptStatusAt), 0u);
  stream_.Check(disk_.borrow());
  EXPECT_EQ(device_->served(), 4u);
}

TEST_F(DeviceTest, TheKickEventfdIsANotification) {
  device_->Start();
  BringUp();
  while (!stream_.all_offered()) stream_.Offer();
  const uint64_t one = 1;
  ASSERT_EQ(write(device_->kick().raw(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  EXPECT_TRUE(AwaitInterrupts(*device_, [&] { return stream_.AllUsed(); }));
}

TEST_F(DeviceTest, ServesNothingBeforeTheDriverIsReadyNorWhenStopped) {
  device_->Start();
  stream_.Offer();
  ASSERT_TRUE(driver_->Negotiate(driver_->DeviceFeatures()));
  ASSERT_TRUE(driver_->SetUp(0, queue_));
  Notify();
  ASSERT_TRUE(device_->Stop(kLong).ok());
  EXPECT_EQ(device_->served(), 0u);
  driver_->GoLive();
  Notify();
  EXPECT_EQ(device_->served(), 0u);
  device_->Start();
  EXPECT_TRUE(AwaitInterrupts(*device_, [&] { return queue_.used_index() == 1; }));
}

TEST_F(DeviceTest, AHostileRingBreaksTheDeviceUntilAReset) {
  device_->Start();
  BringUp();
  queue_.SetDescriptor(
      0, {.gpa = kRamGpa, .length = 1, .flags = kDescriptorNext, .next = 0});  // a loop
  queue_.Offer(0);
  Notify();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return device_->fault() != nullptr; }));
  EXPECT_STREQ(device_->fault(), "a chain that does not end");
  EXPECT_EQ(driver_->Read(kStatusAt), TestDriver::kLive | kStatusNeedsReset);
  EXPECT_EQ(driver_->Read(kInterruptStatusAt), uint32_t{kInterruptConfigChange});
  Notify();
  ASSERT_TRUE(device_->Stop(kLong).ok());
  EXPECT_EQ(faults_, std::vector<std::string>{"a chain that does not end"});
  EXPECT_EQ(queue_.used_index(), 0);

  driver_->Write(kStatusAt, 0);
  EXPECT_EQ(device_->fault(), nullptr);
  TestQueue fresh(ram_, kRamGpa + 0x8000, kMaxQueueSize);
  BlockStream stream(ram_, fresh, 2);
  const TestQueue* queues[] = {&fresh};
  ASSERT_TRUE(driver_->BringUp(queues));
  device_->Start();
  stream.Offer();
  stream.Offer();
  Notify();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return stream.AllUsed(); }));
  stream.Check(disk_.borrow());
}

TEST_F(DeviceTest, ARequestTheBackendCannotReadBreaksTheDevice) {
  device_->Start();
  BringUp();
  queue_.SetDescriptor(0, {.gpa = kRamGpa, .length = 15, .flags = 0, .next = 0});
  queue_.Offer(0);
  Notify();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return device_->fault() != nullptr; }));
  EXPECT_STREQ(device_->fault(), "a block request without a header");
  EXPECT_EQ(device_->served(), 0u);
}

TEST_F(DeviceTest, AQueueThatCannotBeIsToldOnce) {
  ASSERT_TRUE(driver_->Negotiate(kFeatureVersion1));
  EXPECT_FALSE(driver_->SetUp(0, TestQueue(ram_, 0, 8)));
  EXPECT_FALSE(driver_->SetUp(0, TestQueue(ram_, 0, 8)));
  EXPECT_EQ(faults_, std::vector<std::string>{"a queue is not in RAM"});
}

// What the driver takes away, by a reset or a queue, it may use again at once.
TEST_F(DeviceTest, TakingMemoryAwayWaitsForTheRequestInHand) {
  for (const uint64_t offset : {kStatusAt, kQueueReadyAt}) {
    SCOPED_TRACE(offset);
    TestQueue queue(ram_, kRamGpa, kMaxQueueSize);
    queue.SetAvailableIndex(0);
    ram_.memory().StoreIndex(queue.used() + kRingIndexOffset, 0);
    BlockStream stream(ram_, queue, 2);
    const TestQueue* queues[] = {&queue};
    ASSERT_TRUE(driver_->BringUp(queues));
    device_->Start();
    in_hand_ = false;
    Shut();
    stream.Offer();
    stream.Offer();
    Notify();
    in_hand_.wait(false);
    std::atomic<bool> taken = false;
    std::thread vcpu([&] {
      driver_->Write(offset, 0);
      taken = true;
    });
    // The accesses of other vCPUs are answered meanwhile.
    EXPECT_EQ(driver_->Read(kStatusAt), TestDriver::kLive);
    EXPECT_FALSE(taken);
    Open();
    vcpu.join();
    // The write may have come before or after the second request was begun, and never within.
    const uint16_t used = queue.used_index();
    EXPECT_GE(used, 1);
    EXPECT_LE(used, 2);
    ASSERT_TRUE(device_->Stop(kLong).ok());
    EXPECT_EQ(queue.used_index(), used);
  }
}

TEST_F(DeviceTest, StopGivesUpInTimeAndTheDeviceGoesOn) {
  device_->Start();
  BringUp();
  Shut();
  while (!stream_.all_offered()) stream_.Offer();
  Notify();
  in_hand_.wait(false);
  const absl::Status status = device_->Stop(kShort);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), "DEVICE_BUSY");
  VirtioState state;
  EXPECT_EQ(ReasonOf(device_->Save(state)), "DEVICE_RUNNING");
  Open();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return stream_.AllUsed(); }));
  stream_.Check(disk_.borrow());
}

TEST_F(DeviceTest, ItsEventfdsAreCloseOnExec) {
  EXPECT_EQ(fcntl(device_->kick().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(device_->interrupt().raw(), F_GETFD), FD_CLOEXEC);
}

TEST_F(DeviceTest, StateIsForAStoppedDevice) {
  VirtioState state;
  EXPECT_TRUE(device_->Save(state).ok());
  device_->Start();
  EXPECT_EQ(ReasonOf(device_->Save(state)), "DEVICE_RUNNING");
  EXPECT_EQ(ReasonOf(device_->Restore(state)), "DEVICE_RUNNING");
  ASSERT_TRUE(device_->Stop(kLong).ok());
  EXPECT_TRUE(device_->Restore(state).ok());
}

// An interrupt that the source raised may have been lost on the way: one more does no harm.
TEST_F(DeviceTest, StartSignalsAnInterruptThatIsPending) {
  device_->Start();
  BringUp();
  stream_.Offer();
  Notify();
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return queue_.used_index() == 1; }));
  ASSERT_TRUE(device_->Stop(kLong).ok());
  VirtioState state;
  ASSERT_TRUE(device_->Save(state).ok());

  auto target = VirtioDevice::Create(testing::StreamBackend(disk_.borrow()), ram_.memory()).value();
  ASSERT_TRUE(target->Restore(state).ok());
  EXPECT_EQ(TakeInterrupts(*target), 0u);
  target->Start();
  EXPECT_EQ(TakeInterrupts(*target), 1u);
  ASSERT_TRUE(target->Stop(kLong).ok());
  TestDriver(*target).Write(kInterruptAckAt, kInterruptUsedBuffer);
  target->Start();
  EXPECT_EQ(TakeInterrupts(*target), 0u);
}

}  // namespace
}  // namespace rehome::virtio
