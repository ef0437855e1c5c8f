// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/serial.h"

#include <algorithm>

namespace rehome {
namespace {

// 16550 registers by offset.
constexpr uint16_t kData = 0;
constexpr uint16_t kInterruptEnable = 1;
constexpr uint16_t kInterruptId = 2;  // read; a write is FIFO control
constexpr uint16_t kLineControl = 3;
constexpr uint16_t kModemControl = 4;
constexpr uint16_t kLineStatus = 5;
constexpr uint16_t kModemStatus = 6;
constexpr uint16_t kScratch = 7;

constexpr uint8_t kDivisorLatchBit = 0x80;     // line control
constexpr uint8_t kDataReady = 0x01;           // line status
constexpr uint8_t kTransmitterEmpty = 0x60;    // line status: we never make the guest wait
constexpr uint8_t kLoopback = 0x10;            // modem control
constexpr uint8_t kClearReceiveFifo = 0x02;    // FIFO control
constexpr uint8_t kFifoEnabled = 0x01;         // FIFO control
constexpr uint8_t kNoInterruptPending = 0x01;  // interrupt id
constexpr uint8_t kFifosAreOn = 0xc0;          // interrupt id
constexpr uint8_t kLineIsUp = 0xb0;            // modem status: carrier, ready, clear to send

}  // namespace

Serial::Serial(SerialLine& line, size_t fifo_depth) : line_(line), fifo_depth_(fifo_depth) {}

bool Serial::DivisorLatched() const { return (state_.line_control & kDivisorLatchBit) != 0; }

uint8_t Serial::Read(uint16_t offset) {
  switch (offset) {
    case kData:
      return DivisorLatched() ? state_.divisor_low : ReadData();
    case kInterruptEnable:
      return DivisorLatched() ? state_.divisor_high : state_.interrupt_enable;
    case kInterruptId:
      return kNoInterruptPending | ((state_.fifo_control & kFifoEnabled) != 0 ? kFifosAreOn : 0);
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus:
      return LineStatus();
    case kModemStatus:
      return ModemStatus();
    case kScratch:
      return state_.scratch;
  }
  return 0xff;
}

void Serial::Write(uint16_t offset, uint8_t value) {
  switch (offset) {
    case kData:
      if (DivisorLatched()) {
        state_.divisor_low = value;
      } else if ((state_.modem_control & kLoopback) != 0) {
        Push(value);
      } else {
        line_.Send(value);
      }
      return;
    case kInterruptEnable:
      (DivisorLatched() ? state_.divisor_high : state_.interrupt_enable) = value;
      return;
    case kInterruptId:
      state_.fifo_control = value & ~kClearReceiveFifo;
      if ((value & kClearReceiveFifo) != 0) state_.fifo_count = 0;
      return;
    case kLineControl:
      state_.line_control = value;
      return;
    case kModemControl:
      state_.modem_control = value;
      return;
    case kScratch:
      state_.scratch = value;
      return;
  }
}

// Input is fetched when the guest looks for it and never earlier: what it has not asked for stays
// in the socket, which moves with the guest.
uint8_t Serial::LineStatus() {
  if (state_.fifo_count == 0 && (state_.modem_control & kLoopback) == 0) {
    const size_t count = line_.Receive(std::span(state_.fifo).first(fifo_depth_));
    state_.fifo_count = static_cast<uint8_t>(std::min(count, fifo_depth_));
  }
  return kTransmitterEmpty | (state_.fifo_count > 0 ? kDataReady : 0);
}

uint8_t Serial::ReadData() {
  if (state_.fifo_count == 0) return 0;
  const uint8_t byte = state_.fifo[0];
  std::copy(state_.fifo.begin() + 1, state_.fifo.end(), state_.fifo.begin());
  state_.fifo.back() = 0;
  --state_.fifo_count;
  return byte;
}

uint8_t Serial::ModemStatus() const {
  if ((state_.modem_control & kLoopback) == 0) return kLineIsUp;
  // DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
  const uint8_t out = state_.modem_control;
  return static_cast<uint8_t>((out & 0x01) << 5 | (out & 0x02) << 3 | (out & 0x0c) << 4);
}

void Serial::Push(uint8_t byte) {
  if (state_.fifo_count < fifo_depth_) state_.fifo[state_.fifo_count++] = byte;
}

bool Serial::Restore(const SerialState& state) {
  if (state.fifo_count > kSerialFifoMax) return false;
  state_ = state;
  return true;
}

}  // namespace rehome
