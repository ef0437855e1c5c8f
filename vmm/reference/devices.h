// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_DEVICES_H_
#define REHOME_VMM_REFERENCE_DEVICES_H_

#include <cstdint>
#include <memory>
#include <mutex>

#include "kvmglue/vcpu.h"
#include "vmm/reference/console.h"
#include "vmm/reference/serial.h"
#include "vmm/reference/state_format.h"

namespace rehome {

// What an access to a port means for the vCPU that made it.
enum class PortOutcome : uint8_t {
  kContinue,
  kPowerOff,    // the guest asked to be switched off
  kGuestFault,  // the guest took a CPU exception and gave up
};

// Everything that answers at an I/O port: the serial port and the guest's exit port. Thread-safe.
class Devices {
 public:
  Devices(std::unique_ptr<Console> console, size_t serial_depth);

  // Serves one exit; fills io.data for an IN. A port without device reads as all ones.
  PortOutcome Handle(const PortIo& io);

  // REQUIRES: no vCPU runs; for Save(), the console is held. Save() does not allocate if
  // state.console.pending has kMaxPending reserved.
  void Save(DeviceState& state) const;
  // False, with nothing changed, if the state is impossible.
  bool Restore(const DeviceState& state);

  // How often the guest has moved, this VMM's taking over included.
  uint64_t hops() const;

  Console& console() { return *console_; }

 private:
  PortOutcome Access(uint16_t port, bool is_out, uint8_t& byte);

  const std::unique_ptr<Console> console_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  Serial serial_;
  uint64_t hops_ = 0;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_DEVICES_H_
