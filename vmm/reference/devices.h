// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_DEVICES_H_
#define REHOME_VMM_REFERENCE_DEVICES_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "kvmglue/vcpu.h"
#include "vmm/reference/console.h"
#include "vmm/reference/serial.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/virtio_bus.h"

namespace rehome {

// What an access to a port means for the vCPU that made it.
enum class PortOutcome : uint8_t {
  kContinue,
  kPowerOff,    // the guest asked to be switched off
  kReset,       // the guest asked to be started anew, which this VMM does not do
  kGuestFault,  // the guest took a CPU exception and gave up
};

// What a Linux guest's machine has beyond the payload guest's.
struct LinuxDevices {
  std::unique_ptr<InterruptLine> serial_interrupt;
  std::unique_ptr<VirtioBus> virtio;
};

// Everything that answers at an I/O port or in the hole of guest-physical memory: the serial port,
// the guest's exit port, and for Linux the reset line and virtio devices. Thread-safe, where
// nothing else is said.
class Devices {
 public:
  Devices(std::unique_ptr<Console> console, size_t serial_depth);
  Devices(std::unique_ptr<Console> console, size_t serial_depth, LinuxDevices linux_devices);
  ~Devices();

  // Serves one exit; fills io.data for an IN. A port without device reads as all ones.
  PortOutcome Handle(const PortIo& io);
  // The same for memory-mapped I/O.
  void HandleMmio(const MmioAccess& access);

  // The serial port fetches at most `depth` bytes from its line from now on, for a state format
  // that holds no more. REQUIRES: depth >= 1. More than the port's own depth: no limit.
  void LimitInput(size_t depth);
  // On the way to another VMM, in this order. Quiesce(), with the guest running: the guest reads
  // what the serial port has fetched beyond LimitInput(), and the virtio devices finish what they
  // have in hand, take no more and let their ioeventfds go. DEADLINE_EXCEEDED / DEVICE_BUSY if one
  // of them is not done within `limit`, and KVM's errors; then nothing has changed. Freeze(), when
  // no vCPU runs any more: from now on no device takes input or raises an interrupt. KVM_FAILED and
  // the like.
  absl::Status Quiesce(std::chrono::milliseconds limit);
  absl::Status Freeze();
  // Whatever of both was done is undone: the devices go on, here or in the VMM that has restored
  // them, and raise the interrupts again that may have been missed.
  void Thaw();

  // REQUIRES: no vCPU runs and Freeze() was called; the console is held. Save() does not allocate
  // if state.console.pending has kMaxPending reserved. Errors of VirtioBus.
  absl::Status Save(DeviceState& state) const;
  // REQUIRES: no vCPU has run here. Leaves the devices frozen. INVALID_ARGUMENT / STATE_MALFORMED
  // if the state is impossible, or errors of VirtioBus; the devices are in no state to run then.
  absl::Status Restore(const DeviceState& state);

  // How often the guest has moved, this VMM's taking over included.
  uint64_t hops() const;

  Console& console() { return *console_; }
  size_t virtio_count() const { return virtio_ == nullptr ? 0 : virtio_->size(); }
  // REQUIRES: i < virtio_count(). What device i works on; it goes with the guest.
  BorrowedFd virtio_fd(size_t i) const { return virtio_->fd(i); }

 private:
  PortOutcome Access(uint16_t port, bool is_out, uint8_t& byte);
  PortOutcome Write(uint16_t port, uint8_t byte) const;
  void OnInput();
  void AwaitInputLocked();
  absl::Status AwaitInputWithinLimit(std::chrono::milliseconds limit);

  const std::unique_ptr<Console> console_;
  const std::unique_ptr<InterruptLine> serial_interrupt_;  // nullptr: not wired
  const std::unique_ptr<VirtioBus> virtio_;                // nullptr: none
  const bool has_reset_line_;
  mutable std::mutex mutex_;
  std::condition_variable input_read_;  // the guest has accessed a port while somebody waits
  // State below is protected by mutex_.
  Serial serial_;
  bool input_is_awaited_ = false;
  bool frozen_ = false;
  uint64_t hops_ = 0;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_DEVICES_H_
