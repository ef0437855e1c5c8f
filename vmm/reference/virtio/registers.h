// SPDX-License-Identifier: Apache-2.0
//
// The registers of a virtio-mmio device, version 2 (virtio 1.2, 4.2.2), as a state machine without
// threads or descriptors. It enforces the order of the driver's steps (3.1): what comes at the
// wrong time, or is not a 32-bit access, changes nothing.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_REGISTERS_H_
#define REHOME_VMM_REFERENCE_VIRTIO_REGISTERS_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "vmm/reference/virtio/abi.h"
#include "vmm/reference/virtio/backend.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/split_queue.h"
#include "vmm/reference/virtio/state.h"

namespace rehome::virtio {

// Of the registers and the configuration that follows them.
inline constexpr uint64_t kMmioBytes = 0x1000;
// The one register that a VMM lets KVM watch (Vm::AssignIoeventfd()).
inline constexpr uint64_t kQueueNotifyOffset = 0x50;

// What a write means for those who serve the queues.
enum class WriteEffect : uint8_t {
  kNothing,
  kLookAtQueues,  // the driver has notified, or is ready
};

// Not thread-safe.
class Registers {
 public:
  // Both must outlive the object.
  Registers(const DeviceProfile& profile, const GuestMemory& memory);

  // An access of the guest at `offset` from the start of the device. Fills all of `out`: what has
  // no register reads as zero.
  void Read(uint64_t offset, std::span<uint8_t> out) const;
  // REQUIRES: if Quiets(), nobody has a chain in hand.
  WriteEffect Write(uint64_t offset, std::span<const uint8_t> in);
  // Whether this write resets the device or takes a queue away: the driver may reuse the memory
  // afterwards, so nobody may be working on it.
  static bool Quiets(uint64_t offset, std::span<const uint8_t> in);

  // Whether chains of this queue may be served now.
  bool Serving(uint32_t queue) const;
  QueueState& queue(uint32_t queue) { return state_.queues[queue]; }
  uint64_t driver_features() const { return state_.driver_features; }
  uint32_t queue_count() const { return profile_.queue_count; }

  // InterruptStatus; whoever sets a bit signals the guest.
  void SetInterrupt(InterruptBit bit) { state_.interrupt_status |= bit; }
  bool interrupt_pending() const { return state_.interrupt_status != 0; }
  // DEVICE_NEEDS_RESET, for ever until the driver resets. Returns whether the guest is to be
  // signalled, which is if it was told that the device is live.
  bool Break(Fault fault);
  // Why, while the bit is set; else nullptr. Not part of the state: after Restore() it is a
  // sentence that says so.
  Fault fault() const { return fault_; }

  VirtioState Save() const { return state_; }
  // Takes over a state of another process. Errors leave everything as it was:
  // INVALID_ARGUMENT / VIRTIO_STATE_INVALID; FAILED_PRECONDITION / VIRTIO_DEVICE_MISMATCH if the
  // state is sound and this is not the device: another kind, features or configuration that we do
  // not offer, or rings where we have no RAM.
  absl::Status Restore(const VirtioState& state);

 private:
  uint32_t ReadRegister(uint64_t offset) const;
  WriteEffect WriteRegister(uint64_t offset, uint32_t value);
  WriteEffect WriteStatus(uint32_t value);
  void WriteDriverFeatures(uint32_t value);
  void WriteQueueRegister(uint64_t offset, uint32_t value);
  void WriteQueueReady(uint32_t value);
  void Reset();
  bool Has(uint32_t status_bits) const { return (state_.status & status_bits) == status_bits; }
  bool FeaturesAccepted() const;
  // The selected queue; nullptr if there is none of that number.
  QueueState* Selected();
  const QueueState* Selected() const;

  const DeviceProfile& profile_;
  const GuestMemory& memory_;
  VirtioState state_;
  Fault fault_ = nullptr;
};

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_REGISTERS_H_
