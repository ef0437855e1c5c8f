// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/devices.h"

#include <utility>

#include "vmm/reference/guest/guest_abi.h"

namespace rehome {

static_assert(kSerialPort == REHOME_GUEST_SERIAL_PORT);

Devices::Devices(std::unique_ptr<Console> console, size_t serial_depth)
    : console_(std::move(console)), serial_(*console_, serial_depth) {}

PortOutcome Devices::Handle(const PortIo& io) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Devices here are one byte wide: a wider access goes to consecutive ports, a repeated one to the
  // same again.
  for (size_t i = 0; i < io.data.size(); ++i) {
    const auto port = static_cast<uint16_t>(io.port + i % io.width);
    const PortOutcome outcome = Access(port, io.is_out, io.data[i]);
    if (outcome != PortOutcome::kContinue) return outcome;
  }
  return PortOutcome::kContinue;
}

PortOutcome Devices::Access(uint16_t port, bool is_out, uint8_t& byte) {
  if (port >= kSerialPort && port < kSerialPort + kSerialPortCount) {
    const uint16_t offset = port - kSerialPort;
    if (is_out) {
      serial_.Write(offset, byte);
    } else {
      byte = serial_.Read(offset);
    }
    return PortOutcome::kContinue;
  }
  if (port == REHOME_GUEST_EXIT_PORT && is_out) {
    return byte == REHOME_GUEST_EXIT_FAULT ? PortOutcome::kGuestFault : PortOutcome::kPowerOff;
  }
  if (!is_out) byte = 0xff;
  return PortOutcome::kContinue;
}

void Devices::Save(DeviceState& state) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  state.serial = serial_.state();
  state.hops = hops_;
  console_->Save(state.console);
}

bool Devices::Restore(const DeviceState& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!serial_.Restore(state.serial)) return false;
  hops_ = state.hops + 1;
  console_->Restore(state.console);
  return true;
}

uint64_t Devices::hops() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return hops_;
}

}  // namespace rehome
