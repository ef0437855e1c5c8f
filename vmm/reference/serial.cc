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

constexpr uint8_t kReceivedDataEnable = 0x01;  // interrupt enable
constexpr uint8_t kTransmitterEnable = 0x02;   // interrupt enable
constexpr uint8_t kInterruptEnables = 0x0f;    // interrupt enable: the bits that exist
constexpr uint8_t kDivisorLatchBit = 0x80;     // line control
constexpr uint8_t kDataReady = 0x01;           // line status
constexpr uint8_t kTransmitterEmpty = 0x60;    // line status: we never make the guest wait
constexpr uint8_t kLoopback = 0x10;            // modem control
constexpr uint8_t kClearReceiveFifo = 0x02;    // FIFO control
constexpr uint8_t kFifoEnabled = 0x01;         // FIFO control
constexpr uint8_t kNoInterruptPending = 0x01;  // interrupt id
constexpr uint8_t kTransmitterIsEmpty = 0x02;  // interrupt id
constexpr uint8_t kReceivedData = 0x04;        // interrupt id
constexpr uint8_t kFifosAreOn = 0xc0;          // interrupt id
constexpr uint8_t kLineIsUp = 0xb0;            // modem status: carrier, ready, clear to send

}  // namespace

Serial::Serial(SerialLine& line, size_t fifo_depth, InterruptLine* interrupt)
    : line_(line), fifo_depth_(fifo_depth), input_limit_(fifo_depth), interrupt_(interrupt) {}

bool Serial::DivisorLatched() const { return (state_.line_control & kDivisorLatchBit) != 0; }

uint8_t Serial::Read(uint16_t offset) {
  switch (offset) {
    case kData:
      return DivisorLatched() ? state_.divisor_low : ReadData();
    case kInterruptEnable:
      return DivisorLatched() ? state_.divisor_high : state_.interrupt_enable;
    case kInterruptId:
      return InterruptId();
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
      WriteData(value);
      return;
    case kInterruptEnable:
      WriteInterruptEnable(value);
      return;
    case kInterruptId:
      state_.fifo_control = value & ~kClearReceiveFifo;
      if ((value & kClearReceiveFifo) != 0) state_.fifo_count = 0;
      UpdateInterrupt();
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

void Serial::WriteData(uint8_t value) {
  if (DivisorLatched()) {
    state_.divisor_low = value;
    return;
  }
  if ((state_.modem_control & kLoopback) != 0) {
    Push(value);
  } else {
    line_.Send(value);
  }
  state_.transmitter_news = 1;
  UpdateInterrupt();
}

// A transmitter that is empty is news to a guest that begins to listen.
void Serial::WriteInterruptEnable(uint8_t value) {
  if (DivisorLatched()) {
    state_.divisor_high = value;
    return;
  }
  const uint8_t begun = value & ~state_.interrupt_enable;
  state_.interrupt_enable = value & kInterruptEnables;
  if ((begun & kTransmitterEnable) != 0) state_.transmitter_news = 1;
  UpdateInterrupt();
}

// Of what the guest has enabled, the first by priority.
uint8_t Serial::PendingInterrupt() const {
  if ((state_.interrupt_enable & kReceivedDataEnable) != 0 && state_.fifo_count > 0) {
    return kReceivedData;
  }
  if ((state_.interrupt_enable & kTransmitterEnable) != 0 && state_.transmitter_news != 0) {
    return kTransmitterIsEmpty;
  }
  return kNoInterruptPending;
}

// Reading it is what takes the news of an empty transmitter away.
uint8_t Serial::InterruptId() {
  const uint8_t pending = PendingInterrupt();
  if (pending == kTransmitterIsEmpty) {
    state_.transmitter_news = 0;
    UpdateInterrupt();
  }
  return pending | ((state_.fifo_control & kFifoEnabled) != 0 ? kFifosAreOn : 0);
}

void Serial::UpdateInterrupt() {
  const bool high = PendingInterrupt() != kNoInterruptPending;
  if (high == interrupt_is_high_) return;
  interrupt_is_high_ = high;
  if (interrupt_ != nullptr) interrupt_->Set(high);
}

void Serial::Reassert() {
  interrupt_is_high_ = PendingInterrupt() != kNoInterruptPending;
  if (interrupt_ != nullptr) interrupt_->Set(interrupt_is_high_);
}

bool Serial::awaits_input() const {
  return (state_.interrupt_enable & kReceivedDataEnable) != 0 && state_.fifo_count == 0 &&
         (state_.modem_control & kLoopback) == 0;
}

// Input is fetched when the guest looks for it, or waits to be interrupted by it, and never
// earlier: what it has not asked for stays in the socket, which moves with the guest.
void Serial::FetchInput() {
  if (state_.fifo_count > 0 || (state_.modem_control & kLoopback) != 0) return;
  const size_t count = line_.Receive(std::span(state_.fifo).first(input_limit_));
  state_.fifo_count = static_cast<uint8_t>(std::min(count, input_limit_));
  UpdateInterrupt();
}

void Serial::LimitInput(size_t depth) { input_limit_ = std::min(depth, fifo_depth_); }

uint8_t Serial::LineStatus() {
  FetchInput();
  return kTransmitterEmpty | (state_.fifo_count > 0 ? kDataReady : 0);
}

uint8_t Serial::ReadData() {
  if (state_.fifo_count == 0) return 0;
  const uint8_t byte = state_.fifo[0];
  std::copy(state_.fifo.begin() + 1, state_.fifo.end(), state_.fifo.begin());
  state_.fifo.back() = 0;
  --state_.fifo_count;
  UpdateInterrupt();
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
  UpdateInterrupt();
}

bool Serial::Restore(const SerialState& state) {
  if (state.fifo_count > kSerialFifoMax) return false;
  state_ = state;
  return true;
}

}  // namespace rehome
