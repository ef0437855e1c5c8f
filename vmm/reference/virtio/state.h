// SPDX-License-Identifier: Apache-2.0
//
// What a device is between two requests: all of it that is neither in guest memory nor behind its
// descriptor. Fixed layout, so that it can be copied into a state area in a blackout. It holds no
// request: a device that has stopped has none in hand (device.h).
#ifndef REHOME_VMM_REFERENCE_VIRTIO_STATE_H_
#define REHOME_VMM_REFERENCE_VIRTIO_STATE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"

namespace rehome::virtio {

inline constexpr uint32_t kVirtioStateMagic = 0x4d4f4956;  // "VIOM"
inline constexpr uint32_t kVirtioStateVersion = 1;

inline constexpr size_t kMaxQueues = 2;         // a network device has two
inline constexpr uint16_t kMaxQueueSize = 256;  // entries; what Linux asks for at most by default
inline constexpr size_t kConfigBytes = 64;      // of device configuration; block has 60

// A queue's registers, and how far the device has come.
struct QueueState {
  uint64_t descriptors = 0;  // guest-physical addresses, as the driver wrote them
  uint64_t available = 0;
  uint64_t used = 0;
  uint16_t size = 0;  // entries
  // Chains taken from the available ring, which is the chains put into the used ring: the device
  // takes the next one only after it has given the last one back. Counts modulo 2^16.
  uint16_t index = 0;
  uint16_t ready = 0;  // 0 or 1
  uint16_t reserved = 0;
  friend bool operator==(const QueueState&, const QueueState&) = default;
};

struct VirtioState {
  uint32_t magic = kVirtioStateMagic;
  uint32_t version = kVirtioStateVersion;
  uint32_t device_id = 0;
  uint32_t status = 0;  // StatusBit
  uint64_t driver_features = 0;
  uint32_t device_features_select = 0;
  uint32_t driver_features_select = 0;
  uint32_t queue_select = 0;
  uint32_t interrupt_status = 0;  // InterruptBit
  uint32_t config_generation = 0;
  uint32_t queue_count = 0;
  std::array<QueueState, kMaxQueues> queues{};  // those beyond queue_count are zero
  // What the driver reads as device configuration: a target must be able to go on with the same.
  std::array<uint8_t, kConfigBytes> config{};
  friend bool operator==(const VirtioState&, const VirtioState&) = default;

  // Whether this can be the state of some device, whatever memory and host it came from.
  // INVALID_ARGUMENT / VIRTIO_STATE_INVALID, with the first field that is wrong.
  absl::Status Validate() const;
};

// A change of any of these changes the format: raise kVirtioStateVersion.
static_assert(std::is_trivially_copyable_v<VirtioState>);
static_assert(sizeof(QueueState) == 32 && offsetof(QueueState, index) == 26);
static_assert(offsetof(VirtioState, queues) == 48 && offsetof(VirtioState, config) == 112);
static_assert(sizeof(VirtioState) == 176);
static_assert(std::has_unique_object_representations_v<VirtioState>);

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_STATE_H_
