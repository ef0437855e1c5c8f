// SPDX-License-Identifier: Apache-2.0
//
// Numbers of the virtio 1.2 specification that more than one unit needs; "2.1" and the like are its
// sections. Everything in memory is little-endian, as this host is.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_ABI_H_
#define REHOME_VMM_REFERENCE_VIRTIO_ABI_H_

#include <bit>
#include <cstdint>

namespace rehome::virtio {

static_assert(std::endian::native == std::endian::little);

// 5: device types.
inline constexpr uint32_t kNetDeviceId = 1;
inline constexpr uint32_t kBlockDeviceId = 2;

// 2.1: device status.
enum StatusBit : uint32_t {
  kStatusAcknowledge = 1,
  kStatusDriver = 2,
  kStatusDriverOk = 4,
  kStatusFeaturesOk = 8,
  kStatusNeedsReset = 64,
  kStatusFailed = 128,
};
inline constexpr uint32_t kStatusDriverBits =
    kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFeaturesOk | kStatusFailed;
inline constexpr uint32_t kStatusAllBits = kStatusDriverBits | kStatusNeedsReset;

// 6: features of every device.
inline constexpr uint64_t kFeatureVersion1 = 1ull << 32;

// 4.2.2: InterruptStatus.
enum InterruptBit : uint32_t {
  kInterruptUsedBuffer = 1,
  kInterruptConfigChange = 2,
};
inline constexpr uint32_t kInterruptAllBits = kInterruptUsedBuffer | kInterruptConfigChange;

// 2.7.5: descriptors.
inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWritable = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;
struct Descriptor {
  uint64_t gpa;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

// 2.7.6, 2.7.8: rings are two 16-bit words (flags, index), the entries, and a word for EVENT_IDX.
inline constexpr uint64_t kRingHeaderBytes = 4;
inline constexpr uint64_t kRingIndexOffset = 2;
inline constexpr uint64_t kRingTailBytes = 2;
inline constexpr uint16_t kAvailableNoInterrupt = 1;
struct UsedElement {
  uint32_t id;
  uint32_t length;
};
static_assert(sizeof(UsedElement) == 8);

// 2.7: alignment of the three parts.
inline constexpr uint64_t kDescriptorsAlignment = 16;
inline constexpr uint64_t kAvailableAlignment = 2;
inline constexpr uint64_t kUsedAlignment = 4;

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_ABI_H_
