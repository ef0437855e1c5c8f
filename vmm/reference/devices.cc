// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/devices.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/log.h"

namespace rehome {
namespace {

// The PC's keyboard controller, of which there is only the line that resets the CPU.
constexpr uint16_t kKeyboardCommandPort = 0x64;
constexpr uint8_t kPulseReset = 0xfe;

}  // namespace

static_assert(kSerialPort == REHOME_GUEST_SERIAL_PORT);

Devices::Devices(std::unique_ptr<Console> console, size_t serial_depth)
    : console_(std::move(console)), has_reset_line_(false), serial_(*console_, serial_depth) {}

Devices::Devices(std::unique_ptr<Console> console, size_t serial_depth, LinuxDevices linux_devices)
    : console_(std::move(console)),
      serial_interrupt_(std::move(linux_devices.serial_interrupt)),
      virtio_(std::move(linux_devices.virtio)),
      has_reset_line_(true),
      serial_(*console_, serial_depth, serial_interrupt_.get()) {
  console_->SetInputHandler([this] { OnInput(); });
}

// The console's thread must not come in any more when the serial port is gone.
Devices::~Devices() { console_->SetInputHandler({}); }

PortOutcome Devices::Handle(const PortIo& io) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Devices here are one byte wide: a wider access goes to consecutive ports, a repeated one to the
  // same again.
  for (size_t i = 0; i < io.data.size(); ++i) {
    const auto port = static_cast<uint16_t>(io.port + i % io.width);
    const PortOutcome outcome = Access(port, io.is_out, io.data[i]);
    if (outcome != PortOutcome::kContinue) return outcome;
  }
  AwaitInputLocked();
  if (input_is_awaited_) input_read_.notify_one();
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
  if (is_out) return Write(port, byte);
  byte = 0xff;
  return PortOutcome::kContinue;
}

PortOutcome Devices::Write(uint16_t port, uint8_t byte) const {
  if (port == REHOME_GUEST_EXIT_PORT) {
    return byte == REHOME_GUEST_EXIT_FAULT ? PortOutcome::kGuestFault : PortOutcome::kPowerOff;
  }
  if (has_reset_line_ && port == kKeyboardCommandPort && byte == kPulseReset) {
    return PortOutcome::kReset;
  }
  return PortOutcome::kContinue;
}

void Devices::HandleMmio(const MmioAccess& access) {
  if (virtio_ != nullptr && virtio_->Access(access)) return;
  if (!access.is_write) std::fill(access.data.begin(), access.data.end(), 0xff);
}

// On the console's thread.
void Devices::OnInput() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (frozen_) return;
  if (serial_.awaits_input()) serial_.FetchInput();
  AwaitInputLocked();
}

void Devices::AwaitInputLocked() {
  if (serial_interrupt_ != nullptr) console_->AwaitInput(!frozen_ && serial_.awaits_input());
}

void Devices::LimitInput(size_t depth) {
  const std::lock_guard<std::mutex> lock(mutex_);
  serial_.LimitInput(depth);
}

absl::Status Devices::AwaitInputWithinLimit(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  input_is_awaited_ = true;
  const bool fits = input_read_.wait_for(lock, limit, [this] { return serial_.is_within_limit(); });
  input_is_awaited_ = false;
  if (fits) return absl::OkStatus();
  return MakeStatus(
      absl::StatusCode::kDeadlineExceeded, "DEVICE_BUSY",
      absl::StrCat("the guest has not read its serial port's ", serial_.state().fifo_count,
                   " bytes in ", limit.count(), " ms, more than the agreed state format holds"));
}

// Only one of the two can take long: a format without virtio is one of a guest without.
absl::Status Devices::Quiesce(std::chrono::milliseconds limit) {
  absl::Status status = AwaitInputWithinLimit(limit);
  return virtio_ == nullptr || !status.ok() ? status : virtio_->Stop(limit);
}

absl::Status Devices::Freeze() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    frozen_ = true;
    AwaitInputLocked();
  }
  return virtio_ == nullptr ? absl::OkStatus() : virtio_->ReleaseInterrupts();
}

void Devices::Thaw() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    frozen_ = false;
    if (serial_interrupt_ != nullptr) serial_.Reassert();
    AwaitInputLocked();
  }
  if (virtio_ == nullptr) return;
  const absl::Status status = virtio_->Start();
  if (!status.ok()) Log("a device is not connected as it was: %s", status.message());
}

absl::Status Devices::Save(DeviceState& state) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  state.serial = serial_.state();
  state.hops = hops_;
  console_->Save(state.console);
  state.virtio_count = virtio_count();
  return virtio_ == nullptr ? absl::OkStatus()
                            : virtio_->Save(std::span(state.virtio).first(state.virtio_count));
}

absl::Status Devices::Restore(const DeviceState& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state.virtio_count != virtio_count() || !serial_.Restore(state.serial)) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "STATE_MALFORMED",
                      "the serial port, or the number of devices");
  }
  frozen_ = true;
  hops_ = state.hops + 1;
  console_->Restore(state.console);
  return virtio_ == nullptr ? absl::OkStatus()
                            : virtio_->Restore(std::span(state.virtio).first(state.virtio_count));
}

uint64_t Devices::hops() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return hops_;
}

}  // namespace rehome
