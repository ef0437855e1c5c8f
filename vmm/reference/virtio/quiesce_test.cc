// SPDX-License-Identifier: Apache-2.0
//
// The promise of device.h: a device that is stopped at any point of a stream of requests, saved,
// and restored into another one over the same memory and descriptor, loses no request and doubles
// none.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "vmm/reference/virtio/block.h"
#include "vmm/reference/virtio/device.h"
#include "vmm/reference/virtio/net.h"
#include "vmm/reference/virtio/test_backend.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::AwaitInterrupts;
using testing::BlockStream;
using testing::kRamGpa;
using testing::StreamBackend;
using testing::TestDriver;
using testing::TestQueue;
using testing::TestRam;
using testing::WatchedBackend;

constexpr std::chrono::milliseconds kLong(testing::kTestTimeoutMs);

// The device's next home: what a migration does.
std::unique_ptr<VirtioDevice> Move(VirtioDevice& source, std::unique_ptr<Backend> backend,
                                   GuestMemory& memory) {
  VirtioState state;
  EXPECT_TRUE(source.Stop(kLong).ok());
  EXPECT_TRUE(source.Save(state).ok());
  auto target = VirtioDevice::Create(std::move(backend), memory).value();
  const absl::Status restored = target->Restore(state);
  EXPECT_TRUE(restored.ok()) << restored;
  return target;
}

// ---- block

// Stop() is called while request `point` is in hand, and the driver offers what is left while the
// device is stopped, with no notification.
void StopAtPoint(uint16_t point, uint16_t count, bool finish_after_stop) {
  TestRam ram;
  TestQueue queue(ram, kRamGpa, kMaxQueueSize);
  const UniqueFd disk = testing::NewStreamDisk();
  BlockStream stream(ram, queue, count);
  std::atomic<VirtioDevice*> device = nullptr;
  std::atomic<uint16_t> begun = 0;
  auto backend =
      std::make_unique<WatchedBackend>(StreamBackend(disk.borrow()), [&](uint32_t, const Chain&) {
        if (begun++ != point) return;
        begun.notify_all();
        const auto deadline = std::chrono::steady_clock::now() + kLong;
        while (finish_after_stop && !device.load()->stopping() &&
               std::chrono::steady_clock::now() < deadline) {
          std::this_thread::yield();
        }
      });
  auto source = VirtioDevice::Create(std::move(backend), ram.memory()).value();
  device = source.get();
  const TestQueue* queues[] = {&queue};
  TestDriver driver(*source);
  ASSERT_TRUE(driver.BringUp(queues));
  source->Start();
  // Some before, some after the stop.
  while (stream.offered() < count - 3) stream.Offer();
  driver.Notify(0);
  for (uint16_t seen = begun; seen <= point; seen = begun) begun.wait(seen);
  ASSERT_TRUE(source->Stop(kLong).ok());
  const uint64_t served = source->served();
  ASSERT_EQ(queue.used_index(), served);
  if (finish_after_stop) {
    ASSERT_EQ(served, point + 1u);
  }
  while (!stream.all_offered()) stream.Offer();
  const auto target = Move(*source, StreamBackend(disk.borrow()), ram.memory());
  EXPECT_EQ(queue.used_index(), served);
  target->Start();
  ASSERT_TRUE(AwaitInterrupts(*target, [&] { return stream.AllUsed(); }));
  EXPECT_EQ(source->served(), served);
  ASSERT_TRUE(target->Stop(kLong).ok());
  EXPECT_EQ(target->served(), count - served);
  stream.Check(disk.borrow());
}

TEST(BlockQuiesceTest, StoppedWithAnyRequestInHand) {
  constexpr uint16_t kCount = 24;
  for (uint16_t point = 0; point < kCount - 3; ++point) {
    SCOPED_TRACE(point);
    StopAtPoint(point, kCount, /*finish_after_stop=*/true);
  }
}

// The same without waiting for each other: Stop() comes anywhere in a request or between two.
TEST(BlockQuiesceTest, StoppedAroundAnyRequest) {
  constexpr uint16_t kCount = 24;
  for (uint16_t point = 0; point < kCount - 3; ++point) {
    SCOPED_TRACE(point);
    StopAtPoint(point, kCount, /*finish_after_stop=*/false);
  }
}

TEST(BlockQuiesceTest, MovedOnAfterEachRequestOffered) {
  TestRam ram;
  TestQueue queue(ram, kRamGpa, kMaxQueueSize);
  const UniqueFd disk = testing::NewStreamDisk();
  BlockStream stream(ram, queue, BlockStream::kMaxRequests);
  auto device = VirtioDevice::Create(StreamBackend(disk.borrow()), ram.memory()).value();
  const TestQueue* queues[] = {&queue};
  ASSERT_TRUE(TestDriver(*device).BringUp(queues));
  uint64_t served = 0;
  while (!stream.all_offered()) {
    device->Start();
    stream.Offer();
    if (stream.offered() % 2 == 0) TestDriver(*device).Notify(0);
    auto next = Move(*device, StreamBackend(disk.borrow()), ram.memory());
    served += device->served();
    device = std::move(next);
  }
  device->Start();
  ASSERT_TRUE(AwaitInterrupts(*device, [&] { return stream.AllUsed(); }));
  ASSERT_TRUE(device->Stop(kLong).ok());
  EXPECT_EQ(served + device->served(), BlockStream::kMaxRequests);
  stream.Check(disk.borrow());
}

// A migration that is given up: the source goes on.
TEST(BlockQuiesceTest, StoppedAndStartedAgain) {
  TestRam ram;
  TestQueue queue(ram, kRamGpa, kMaxQueueSize);
  const UniqueFd disk = testing::NewStreamDisk();
  BlockStream stream(ram, queue, BlockStream::kMaxRequests);
  auto device = VirtioDevice::Create(StreamBackend(disk.borrow()), ram.memory()).value();
  const TestQueue* queues[] = {&queue};
  ASSERT_TRUE(TestDriver(*device).BringUp(queues));
  while (!stream.all_offered()) {
    device->Start();
    stream.Offer();
    ASSERT_TRUE(device->Stop(kLong).ok());
    EXPECT_EQ(queue.used_index(), device->served());
  }
  device->Start();
  ASSERT_TRUE(AwaitInterrupts(*device, [&] { return stream.AllUsed(); }));
  stream.Check(disk.borrow());
}

// ---- network

constexpr MacAddress kMac = {2, 0, 0, 0, 0, 1};
constexpr uint16_t kQueueSize = 64;
constexpr uint32_t kBufferBytes = 256;
constexpr uint64_t kReceiveBuffers = kRamGpa + 0x20000;
constexpr uint64_t kTransmitBuffers = kRamGpa + 0x40000;

// A device in its next home after every few frames, while the network sends and receives.
class NetQuiesceTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, GetParam() | SOCK_CLOEXEC, 0, pair), 0);
    guest_end_ = UniqueFd(pair[0]);
    network_ = UniqueFd(pair[1]);
    ASSERT_EQ(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
    device_ = VirtioDevice::Create(NewBackend(), ram_.memory()).value();
    const TestQueue* queues[] = {&receive_, &transmit_};
    ASSERT_TRUE(TestDriver(*device_).BringUp(queues));
  }

  std::unique_ptr<Backend> NewBackend() {
    return MakeNetBackend(Duplicate(guest_end_.borrow()).value(), kMac).value();
  }
  void MoveOn() {
    device_ = Move(*device_, NewBackend(), ram_.memory());
    device_->Start();
  }

  void OfferReceiveBuffer(uint16_t number) {
    receive_.SetDescriptor(number, {.gpa = kReceiveBuffers + uint64_t{number} * kBufferBytes,
                                    .length = kBufferBytes,
                                    .flags = kDescriptorWritable,
                                    .next = 0});
    receive_.Offer(number);
  }
  void OfferFrame(uint32_t value) {
    const auto number = static_cast<uint16_t>(value % kQueueSize);
    const uint64_t gpa = kTransmitBuffers + uint64_t{number} * kBufferBytes;
    ram_.Put(gpa + kNetHeaderBytes, value);
    transmit_.SetDescriptor(
        number, {.gpa = gpa, .length = kNetHeaderBytes + sizeof(value), .flags = 0, .next = 0});
    transmit_.Offer(number);
  }

  // Frames that the network got, each of which must be the next one.
  void TakeFromNetwork() {
    uint32_t value = 0;
    while (recv(network_.borrow().raw(), &value, sizeof(value), 0) == sizeof(value)) {
      ASSERT_EQ(value, network_got_);
      ++network_got_;
    }
  }
  // Frames that the guest got, likewise; the buffers are offered again.
  void TakeFromGuest() {
    while (const std::optional<UsedElement> used = receive_.TakeUsed()) {
      ASSERT_EQ(used->length, kNetHeaderBytes + sizeof(uint32_t));
      const uint64_t gpa = kReceiveBuffers + uint64_t{used->id} * kBufferBytes;
      ASSERT_EQ(ram_.Get<uint32_t>(gpa + kNetHeaderBytes), guest_got_);
      ++guest_got_;
      OfferReceiveBuffer(static_cast<uint16_t>(used->id));
    }
    while (transmit_.TakeUsed()) ++guest_sent_;
  }

  TestRam ram_;
  TestQueue receive_{ram_, kRamGpa, kQueueSize};
  TestQueue transmit_{ram_, kRamGpa + 0x4000, kQueueSize};
  UniqueFd guest_end_;
  UniqueFd network_;
  std::unique_ptr<VirtioDevice> device_;
  uint32_t network_got_ = 0;
  uint32_t guest_got_ = 0;
  uint32_t guest_sent_ = 0;  // and has its buffer back
};

TEST_P(NetQuiesceTest, NoFrameIsLostDoubledOrOvertaken) {
  constexpr uint32_t kFrames = 600;
  for (uint16_t i = 0; i < kQueueSize; ++i) OfferReceiveBuffer(i);
  uint32_t offered = 0;
  uint32_t network_sent = 0;
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (network_got_ < kFrames || guest_got_ < kFrames) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << network_got_ << " " << guest_got_;
    for (int i = 0; i < 5 && offered < kFrames && offered - guest_sent_ < kQueueSize; ++i) {
      OfferFrame(offered++);
    }
    for (int i = 0; i < 5 && network_sent < kFrames; ++i) {
      if (send(network_.borrow().raw(), &network_sent, sizeof(network_sent), 0) < 0) break;
      ++network_sent;
    }
    ASSERT_NO_FATAL_FAILURE(MoveOn());
    ASSERT_NO_FATAL_FAILURE(TakeFromNetwork());
    ASSERT_NO_FATAL_FAILURE(TakeFromGuest());
  }
  EXPECT_EQ(device_->fault(), nullptr);
  ASSERT_TRUE(device_->Stop(kLong).ok());
  TakeFromNetwork();
  TakeFromGuest();
  EXPECT_EQ(network_got_, kFrames);
  EXPECT_EQ(guest_got_, kFrames);
  EXPECT_EQ(guest_sent_, kFrames);
}

// A frame that comes without any notification, and one that the network had no room for at first.
TEST_P(NetQuiesceTest, TheDeviceWaitsForBothDirections) {
  device_->Start();
  OfferReceiveBuffer(0);
  TestDriver(*device_).Notify(kReceiveQueue);
  const uint32_t first = 0;
  ASSERT_EQ(send(network_.borrow().raw(), &first, sizeof(first), 0), ssize_t{sizeof(first)});
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return receive_.used_index() == 1; }));

  uint32_t offered = 0;
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  // As many as ring and network hold, until the device no longer takes them all at once.
  while (offered < 100'000) {
    while (transmit_.TakeUsed()) ++guest_sent_;
    if (offered - guest_sent_ < kQueueSize) {
      OfferFrame(offered++);
      TestDriver(*device_).Notify(kTransmitQueue);
      continue;
    }
    TakeFromNetwork();
    if (network_got_ > 0 && offered > 3 * kQueueSize) break;
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  }
  while (network_got_ < offered) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    ASSERT_NO_FATAL_FAILURE(TakeFromNetwork());
  }
}

INSTANTIATE_TEST_SUITE_P(Sockets, NetQuiesceTest, ::testing::Values(SOCK_DGRAM, SOCK_SEQPACKET),
                         [](const auto& info) {
                           return info.param == SOCK_DGRAM ? "Datagram" : "SeqPacket";
                         });

}  // namespace
}  // namespace rehome::virtio
