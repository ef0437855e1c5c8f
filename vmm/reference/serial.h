// SPDX-License-Identifier: Apache-2.0
//
// A 16550 on port 0x3f8 as far as a guest that polls needs it: data, line and modem status, the
// registers that drivers write and read back, loopback, receive FIFO. It raises no interrupt: IER
// is stored and IIR always says that none is pending.
#ifndef REHOME_VMM_REFERENCE_SERIAL_H_
#define REHOME_VMM_REFERENCE_SERIAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace rehome {

inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kSerialPortCount = 8;
// Of a 16550; a VMM of version 1 has a 16450, which holds one byte.
inline constexpr size_t kSerialFifoMax = 16;

// The other end of the wire. Neither call blocks.
class SerialLine {
 public:
  virtual ~SerialLine() = default;
  virtual void Send(uint8_t byte) = 0;
  // Takes up to out.size() received bytes; returns how many.
  virtual size_t Receive(std::span<uint8_t> out) = 0;
};

struct SerialState {
  uint8_t interrupt_enable = 0;
  uint8_t fifo_control = 0;
  uint8_t line_control = 0;
  uint8_t modem_control = 0;
  uint8_t scratch = 0;
  uint8_t divisor_low = 0x0c;
  uint8_t divisor_high = 0;
  uint8_t fifo_count = 0;
  std::array<uint8_t, kSerialFifoMax> fifo{};  // received and not yet read; [0] is next
  friend bool operator==(const SerialState&, const SerialState&) = default;
};

// Not thread-safe; the machine serialises port I/O.
class Serial {
 public:
  // `line` must outlive the object. REQUIRES: 1 <= fifo_depth <= kSerialFifoMax.
  Serial(SerialLine& line, size_t fifo_depth);

  // `offset` < kSerialPortCount.
  uint8_t Read(uint16_t offset);
  void Write(uint16_t offset, uint8_t value);

  const SerialState& state() const { return state_; }
  // Takes a saved state over; a FIFO that is deeper than ours is kept whole and drains. False, with
  // nothing changed, if fifo_count is out of range.
  bool Restore(const SerialState& state);

 private:
  bool DivisorLatched() const;
  uint8_t ReadData();
  uint8_t LineStatus();
  uint8_t ModemStatus() const;
  void Push(uint8_t byte);

  SerialLine& line_;
  const size_t fifo_depth_;
  SerialState state_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SERIAL_H_
