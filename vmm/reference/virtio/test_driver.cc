// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/test_driver.h"

#include <poll.h>
#include <unistd.h>

#include <cstring>

namespace rehome::virtio::testing {
namespace {

constexpr size_t kFirstRegionBytes = 0x90000;

std::vector<MappedGuestMemory::Region> RegionsOf(std::span<std::byte> bytes) {
  return {{.gpa = kRamGpa + kFirstRegionBytes, .memory = bytes.subspan(kFirstRegionBytes)},
          {.gpa = kRamGpa, .memory = bytes.first(kFirstRegionBytes)}};
}

}  // namespace

TestRam::TestRam() : bytes_(kRamBytes), memory_(RegionsOf(bytes_)) {}

TestQueue::TestQueue(TestRam& ram, uint64_t gpa, uint16_t size)
    : ram_(ram), gpa_(gpa), size_(size) {}

QueueState TestQueue::State() const {
  return {.descriptors = descriptors(),
          .available = available(),
          .used = used(),
          .size = size_,
          .ready = 1};
}

void TestQueue::SetDescriptor(uint16_t number, const Descriptor& descriptor) {
  ram_.Put(descriptors() + uint64_t{number} * sizeof(descriptor), descriptor);
}

void TestQueue::SetChain(uint16_t first, std::span<const Descriptor> chain) {
  for (size_t i = 0; i < chain.size(); ++i) {
    Descriptor descriptor = chain[i];
    const auto number = static_cast<uint16_t>(first + i);
    if (i + 1 < chain.size()) {
      descriptor.flags |= kDescriptorNext;
      descriptor.next = static_cast<uint16_t>(number + 1);
    }
    SetDescriptor(number, descriptor);
  }
}

void TestQueue::Offer(uint16_t head) {
  ram_.Put(available() + kRingHeaderBytes + 2ull * (offered_ % size_), head);
  SetAvailableIndex(++offered_);
}

void TestQueue::SetAvailableIndex(uint16_t index) {
  ram_.memory().StoreIndex(available() + kRingIndexOffset, index);
}

void TestQueue::SetAvailableFlags(uint16_t flags) { ram_.memory().StoreIndex(available(), flags); }

uint16_t TestQueue::used_index() const {
  return ram_.memory().LoadIndex(used() + kRingIndexOffset).value();
}

std::optional<UsedElement> TestQueue::TakeUsed() {
  if (used_index() == seen_) return std::nullopt;
  const uint64_t entry = seen_++ % size_;
  return ram_.Get<UsedElement>(used() + kRingHeaderBytes + entry * sizeof(UsedElement));
}

TestDriver::TestDriver(VirtioDevice& device)
    : read_([&device](uint64_t offset, std::span<uint8_t> out) { device.Read(offset, out); }),
      write_(
          [&device](uint64_t offset, std::span<const uint8_t> in) { device.Write(offset, in); }) {}

TestDriver::TestDriver(Registers& registers)
    : read_([&registers](uint64_t offset, std::span<uint8_t> out) { registers.Read(offset, out); }),
      write_([&registers](uint64_t offset, std::span<const uint8_t> in) {
        registers.Write(offset, in);
      }) {}

uint32_t TestDriver::Read(uint64_t offset) const {
  uint8_t bytes[sizeof(uint32_t)];
  read_(offset, bytes);
  uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

void TestDriver::Write(uint64_t offset, uint32_t value) {
  uint8_t bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  write_(offset, bytes);
}

void TestDriver::Write64(uint64_t offset, uint64_t value) {
  Write(offset, static_cast<uint32_t>(value));
  Write(offset + 4, static_cast<uint32_t>(value >> 32));
}

uint64_t TestDriver::DeviceFeatures() {
  Write(kDeviceFeaturesSelectAt, 0);
  const uint64_t low = Read(kDeviceFeaturesAt);
  Write(kDeviceFeaturesSelectAt, 1);
  return low | uint64_t{Read(kDeviceFeaturesAt)} << 32;
}

bool TestDriver::Negotiate(uint64_t features) {
  Write(kStatusAt, 0);
  Write(kStatusAt, kStatusAcknowledge);
  Write(kStatusAt, kStatusAcknowledge | kStatusDriver);
  Write(kDriverFeaturesSelectAt, 0);
  Write(kDriverFeaturesAt, static_cast<uint32_t>(features));
  Write(kDriverFeaturesSelectAt, 1);
  Write(kDriverFeaturesAt, static_cast<uint32_t>(features >> 32));
  Write(kStatusAt, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  return (Read(kStatusAt) & kStatusFeaturesOk) != 0;
}

bool TestDriver::SetUp(uint32_t number, const TestQueue& queue) {
  Write(kQueueSelectAt, number);
  Write(kQueueSizeAt, queue.size());
  Write64(kDescriptorsAt, queue.descriptors());
  Write64(kAvailableAt, queue.available());
  Write64(kUsedAt, queue.used());
  Write(kQueueReadyAt, 1);
  return Read(kQueueReadyAt) == 1;
}

bool TestDriver::BringUp(std::span<const TestQueue* const> queues) {
  if (!Negotiate(DeviceFeatures())) return false;
  for (size_t i = 0; i < queues.size(); ++i) {
    if (!SetUp(static_cast<uint32_t>(i), *queues[i])) return false;
  }
  GoLive();
  return Read(kStatusAt) == kLive;
}

uint64_t TakeInterrupts(const VirtioDevice& device) {
  uint64_t count = 0;
  const ssize_t bytes = read(device.interrupt().raw(), &count, sizeof(count));
  return bytes == static_cast<ssize_t>(sizeof(count)) ? count : 0;
}

bool AwaitInterrupts(const VirtioDevice& device, const std::function<bool()>& condition) {
  while (!condition()) {
    pollfd polled = {.fd = device.interrupt().raw(), .events = POLLIN, .revents = 0};
    if (poll(&polled, 1, kTestTimeoutMs) != 1) return condition();
    TakeInterrupts(device);
  }
  return true;
}

}  // namespace rehome::virtio::testing
