// SPDX-License-Identifier: Apache-2.0
//
// The guest's side for tests: RAM in a buffer, rings in it, and the steps by which a driver brings
// a device up. It can do what a good driver does, and write anything anywhere.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_TEST_DRIVER_H_
#define REHOME_VMM_REFERENCE_VIRTIO_TEST_DRIVER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/reference/virtio/abi.h"
#include "vmm/reference/virtio/chain.h"
#include "vmm/reference/virtio/device.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/registers.h"

namespace rehome::virtio::testing {

// Registers that tests name.
inline constexpr uint64_t kDeviceFeaturesAt = 0x10;
inline constexpr uint64_t kDeviceFeaturesSelectAt = 0x14;
inline constexpr uint64_t kDriverFeaturesAt = 0x20;
inline constexpr uint64_t kDriverFeaturesSelectAt = 0x24;
inline constexpr uint64_t kQueueSelectAt = 0x30;
inline constexpr uint64_t kQueueSizeMaxAt = 0x34;
inline constexpr uint64_t kQueueSizeAt = 0x38;
inline constexpr uint64_t kQueueReadyAt = 0x44;
inline constexpr uint64_t kInterruptStatusAt = 0x60;
inline constexpr uint64_t kInterruptAckAt = 0x64;
inline constexpr uint64_t kStatusAt = 0x70;
inline constexpr uint64_t kDescriptorsAt = 0x80;
inline constexpr uint64_t kAvailableAt = 0x90;
inline constexpr uint64_t kUsedAt = 0xa0;
inline constexpr uint64_t kConfigAt = 0x100;

// How long a test waits for the device's thread.
inline constexpr int kTestTimeoutMs = 20'000;

inline constexpr uint64_t kRamGpa = 0x100000;
inline constexpr uint64_t kRamBytes = 2 << 20;

// In two regions that follow each other, so that what crosses from one to the other is tried too.
class TestRam {
 public:
  TestRam();
  TestRam(const TestRam&) = delete;
  TestRam& operator=(const TestRam&) = delete;

  MappedGuestMemory& memory() { return memory_; }
  std::span<std::byte> bytes() { return bytes_; }

  template <typename T>
  void Put(uint64_t gpa, const T& value) {
    memory_.Write(gpa, std::as_bytes(std::span(&value, 1)));
  }
  template <typename T>
  T Get(uint64_t gpa) const {
    T value = {};
    memory_.Read(gpa, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

 private:
  std::vector<std::byte> bytes_;
  MappedGuestMemory memory_;
};

// A queue whose three parts follow each other from `gpa` on, which is 16-byte aligned.
class TestQueue {
 public:
  TestQueue(TestRam& ram, uint64_t gpa, uint16_t size);

  uint64_t descriptors() const { return gpa_; }
  uint64_t available() const { return descriptors() + uint64_t{size_} * sizeof(Descriptor); }
  uint64_t used() const { return (available() + 6 + 2ull * size_ + 3) & ~3ull; }
  uint16_t size() const { return size_; }
  // As the registers would have it.
  QueueState State() const;

  void SetDescriptor(uint16_t number, const Descriptor& descriptor);
  // Writes a chain from descriptor `first` on, in its order.
  void SetChain(uint16_t first, std::span<const Descriptor> chain);
  // Makes the chain that begins at `head` available.
  void Offer(uint16_t head);
  void SetAvailableIndex(uint16_t index);
  void SetAvailableFlags(uint16_t flags);

  // The next used element that the driver has not seen, if there is one.
  std::optional<UsedElement> TakeUsed();
  uint16_t used_index() const;

 private:
  TestRam& ram_;
  const uint64_t gpa_;
  const uint16_t size_;
  uint16_t offered_ = 0;
  uint16_t seen_ = 0;
};

// Accesses of a driver to a device, or to registers alone.
class TestDriver {
 public:
  using ReadFunction = std::function<void(uint64_t, std::span<uint8_t>)>;
  using WriteFunction = std::function<void(uint64_t, std::span<const uint8_t>)>;

  explicit TestDriver(VirtioDevice& device);
  explicit TestDriver(Registers& registers);

  uint32_t Read(uint64_t offset) const;
  void Write(uint64_t offset, uint32_t value);
  uint64_t DeviceFeatures();

  // 3.1.1, up to FEATURES_OK; returns whether the device kept it.
  bool Negotiate(uint64_t features);
  // Tells the device of a queue; returns whether it is ready then.
  bool SetUp(uint32_t number, const TestQueue& queue);
  void GoLive() { Write(kStatusAt, kLive); }
  // All of it, with every feature that the device offers.
  bool BringUp(std::span<const TestQueue* const> queues);
  void Notify(uint32_t queue) { Write(kQueueNotifyOffset, queue); }

  static constexpr uint32_t kLive =
      kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

 private:
  void Write64(uint64_t offset, uint64_t value);

  ReadFunction read_;
  WriteFunction write_;
};

// Until `condition` holds, looking each time the device interrupts. False after kTestTimeoutMs.
bool AwaitInterrupts(const VirtioDevice& device, const std::function<bool()>& condition);
// The eventfd's count, taken; 0 if there is none.
uint64_t TakeInterrupts(const VirtioDevice& device);

}  // namespace rehome::virtio::testing

#endif  // REHOME_VMM_REFERENCE_VIRTIO_TEST_DRIVER_H_
