// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/registers.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

// 4.2.2, table 4.1.
enum Offset : uint64_t {
  kMagicValue = 0x00,
  kVersion = 0x04,
  kDeviceId = 0x08,
  kVendorId = 0x0c,
  kDeviceFeatures = 0x10,
  kDeviceFeaturesSelect = 0x14,
  kDriverFeatures = 0x20,
  kDriverFeaturesSelect = 0x24,
  kQueueSelect = 0x30,
  kQueueSizeMax = 0x34,
  kQueueSize = 0x38,
  kQueueReady = 0x44,
  kQueueNotify = kQueueNotifyOffset,
  kInterruptStatus = 0x60,
  kInterruptAck = 0x64,
  kStatus = 0x70,
  kQueueDescriptorsLow = 0x80,
  kQueueDescriptorsHigh = 0x84,
  kQueueAvailableLow = 0x90,
  kQueueAvailableHigh = 0x94,
  kQueueUsedLow = 0xa0,
  kQueueUsedHigh = 0xa4,
  kSharedMemoryLengthLow = 0xb0,
  kSharedMemoryLengthHigh = 0xb4,
  kSharedMemoryBaseLow = 0xb8,
  kSharedMemoryBaseHigh = 0xbc,
  kConfigGeneration = 0xfc,
  kConfig = 0x100,
};

constexpr uint32_t kMagic = 0x74726976;  // "virt"
constexpr uint32_t kTransportVersion = 2;
constexpr uint32_t kVendor = 0x4d484552;   // "REHM"; drivers do not look
constexpr uint32_t kNoSharedMemory = ~0u;  // 4.2.2: of every region there is not
constexpr uint32_t kFeatureWords = 2;

constexpr Fault kBrokenElsewhere = "the device was broken when it came";

void SetLow(uint64_t& word, uint32_t value) { word = (word & ~uint64_t{0xffffffff}) | value; }
void SetHigh(uint64_t& word, uint32_t value) { word = (word & 0xffffffff) | uint64_t{value} << 32; }

uint32_t WordOf(uint64_t features, uint32_t select) {
  return select < kFeatureWords ? static_cast<uint32_t>(features >> (32 * select)) : 0;
}

bool IsRegisterAccess(uint64_t offset, size_t bytes) {
  return offset < kConfig && offset % sizeof(uint32_t) == 0 && bytes == sizeof(uint32_t);
}

absl::Status Mismatch(std::string_view what) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "VIRTIO_DEVICE_MISMATCH", what);
}

}  // namespace

Registers::Registers(const DeviceProfile& profile, const GuestMemory& memory)
    : profile_(profile), memory_(memory) {
  Reset();
}

void Registers::Reset() {
  state_ = VirtioState{};
  state_.device_id = profile_.device_id;
  state_.queue_count = profile_.queue_count;
  state_.config = profile_.config;
  fault_ = nullptr;
}

QueueState* Registers::Selected() {
  return state_.queue_select < profile_.queue_count ? &state_.queues[state_.queue_select] : nullptr;
}
const QueueState* Registers::Selected() const { return const_cast<Registers*>(this)->Selected(); }

bool Registers::Serving(uint32_t queue) const {
  return Has(kStatusDriverOk) && (state_.status & (kStatusNeedsReset | kStatusFailed)) == 0 &&
         state_.queues[queue].ready == 1;
}

bool Registers::Break(Fault fault) {
  fault_ = fault;
  state_.status |= kStatusNeedsReset;
  if (!Has(kStatusDriverOk)) return false;
  SetInterrupt(kInterruptConfigChange);  // 2.1.2
  return true;
}

void Registers::Read(uint64_t offset, std::span<uint8_t> out) const {
  std::fill(out.begin(), out.end(), 0);
  if (IsRegisterAccess(offset, out.size())) {
    const uint32_t value = ReadRegister(offset);
    std::memcpy(out.data(), &value, sizeof(value));
  } else if (offset >= kConfig && offset - kConfig < state_.config.size()) {
    const std::span<const uint8_t> config = std::span(state_.config).subspan(offset - kConfig);
    std::copy_n(config.begin(), std::min(config.size(), out.size()), out.begin());
  }
}

uint32_t Registers::ReadRegister(uint64_t offset) const {
  const QueueState* queue = Selected();
  switch (offset) {
    case kMagicValue:
      return kMagic;
    case kVersion:
      return kTransportVersion;
    case kDeviceId:
      return profile_.device_id;
    case kVendorId:
      return kVendor;
    case kDeviceFeatures:
      return WordOf(profile_.features, state_.device_features_select);
    case kQueueSizeMax:
      return queue == nullptr ? 0 : kMaxQueueSize;
    case kQueueReady:
      return queue == nullptr ? 0 : queue->ready;
    case kInterruptStatus:
      return state_.interrupt_status;
    case kStatus:
      return state_.status;
    case kSharedMemoryLengthLow:
    case kSharedMemoryLengthHigh:
    case kSharedMemoryBaseLow:
    case kSharedMemoryBaseHigh:
      return kNoSharedMemory;
    case kConfigGeneration:
      return state_.config_generation;
    default:
      return 0;
  }
}

bool Registers::Quiets(uint64_t offset, std::span<const uint8_t> in) {
  const bool zero = std::all_of(in.begin(), in.end(), [](uint8_t byte) { return byte == 0; });
  return zero && IsRegisterAccess(offset, in.size()) &&
         (offset == kStatus || offset == kQueueReady);
}

WriteEffect Registers::Write(uint64_t offset, std::span<const uint8_t> in) {
  // The configuration of neither device has anything to write.
  if (!IsRegisterAccess(offset, in.size())) return WriteEffect::kNothing;
  uint32_t value = 0;
  std::memcpy(&value, in.data(), sizeof(value));
  return WriteRegister(offset, value);
}

WriteEffect Registers::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSelect:
      state_.device_features_select = value;
      break;
    case kDriverFeatures:
      WriteDriverFeatures(value);
      break;
    case kDriverFeaturesSelect:
      state_.driver_features_select = value;
      break;
    case kQueueSelect:
      state_.queue_select = value;
      break;
    case kQueueNotify:
      // One thread serves all queues, so the number does not matter.
      return WriteEffect::kLookAtQueues;
    case kInterruptAck:
      state_.interrupt_status &= ~value;
      break;
    case kStatus:
      return WriteStatus(value);
    default:
      WriteQueueRegister(offset, value);
  }
  return WriteEffect::kNothing;
}

void Registers::WriteDriverFeatures(uint32_t value) {
  if (!Has(kStatusDriver) || Has(kStatusFeaturesOk)) return;
  if (state_.driver_features_select == 0) SetLow(state_.driver_features, value);
  if (state_.driver_features_select == 1) SetHigh(state_.driver_features, value);
}

bool Registers::FeaturesAccepted() const {
  return (state_.driver_features & ~profile_.features) == 0 &&
         (state_.driver_features & kFeatureVersion1) != 0;
}

WriteEffect Registers::WriteStatus(uint32_t value) {
  if (value == 0) {
    Reset();
    return WriteEffect::kNothing;
  }
  // 2.1.1: a driver sets bits and never clears one; DEVICE_NEEDS_RESET is not its to set.
  uint32_t added = value & kStatusDriverBits & ~state_.status;
  if ((added & kStatusFeaturesOk) != 0 && !(Has(kStatusDriver) && FeaturesAccepted())) {
    added &= ~uint32_t{kStatusFeaturesOk};
  }
  const bool may_go_live = ((state_.status | added) & kStatusFeaturesOk) != 0;
  if (!may_go_live) added &= ~uint32_t{kStatusDriverOk};
  state_.status |= added;
  return (added & kStatusDriverOk) != 0 ? WriteEffect::kLookAtQueues : WriteEffect::kNothing;
}

void Registers::WriteQueueRegister(uint64_t offset, uint32_t value) {
  QueueState* queue = Selected();
  if (queue == nullptr || !Has(kStatusFeaturesOk)) return;
  if (offset == kQueueReady) return WriteQueueReady(value);
  if (queue->ready != 0 || Has(kStatusDriverOk)) return;
  switch (offset) {
    case kQueueSize:
      // What does not fit into the field is as wrong as what is too long; see CheckQueue().
      queue->size = value <= kMaxQueueSize ? static_cast<uint16_t>(value) : 0;
      break;
    case kQueueDescriptorsLow:
      return SetLow(queue->descriptors, value);
    case kQueueDescriptorsHigh:
      return SetHigh(queue->descriptors, value);
    case kQueueAvailableLow:
      return SetLow(queue->available, value);
    case kQueueAvailableHigh:
      return SetHigh(queue->available, value);
    case kQueueUsedLow:
      return SetLow(queue->used, value);
    case kQueueUsedHigh:
      return SetHigh(queue->used, value);
    default:
      break;
  }
}

void Registers::WriteQueueReady(uint32_t value) {
  QueueState& queue = *Selected();
  if (value == 0) {
    queue.ready = 0;
    queue.index = 0;
    return;
  }
  // Without RING_RESET a queue that was taken away comes back with a reset of the device only.
  if (value != 1 || queue.ready == 1 || Has(kStatusDriverOk)) return;
  if (Fault fault = CheckQueue(memory_, queue)) {
    Break(fault);
    return;
  }
  queue.ready = 1;
  queue.index = 0;
}

absl::Status Registers::Restore(const VirtioState& state) {
  if (absl::Status status = state.Validate(); !status.ok()) return status;
  if (state.device_id != profile_.device_id) {
    return Mismatch(absl::StrCat("device ", state.device_id, ", not ", profile_.device_id));
  }
  if (state.queue_count != profile_.queue_count) {
    return Mismatch(absl::StrCat(state.queue_count, " queues, not ", profile_.queue_count));
  }
  const uint64_t unknown = state.driver_features & ~profile_.features;
  if ((state.status & kStatusFeaturesOk) != 0 && unknown != 0) {
    return Mismatch(absl::StrFormat("features that are not offered here: %#x", unknown));
  }
  if (state.config != profile_.config) {
    return Mismatch("the configuration differs (a disk's size, a network address)");
  }
  for (uint32_t i = 0; i < state.queue_count; ++i) {
    if (state.queues[i].ready == 0) continue;
    if (Fault fault = CheckQueue(memory_, state.queues[i])) {
      return Mismatch(absl::StrCat("queue ", i, ": ", fault));
    }
  }
  state_ = state;
  fault_ = Has(kStatusNeedsReset) ? kBrokenElsewhere : nullptr;
  return absl::OkStatus();
}

}  // namespace rehome::virtio
