// SPDX-License-Identifier: Apache-2.0
//
// A 16550 on port 0x3f8 as far as guests need it: data, line and modem status, the registers that
// drivers write and read back, loopback, receive FIFO, and the interrupts for received data and for
// an empty transmitter. It never makes the guest wait: what is written has been sent at once. The
// receive interrupt comes with the first byte, whatever trigger level the guest sets. OUT2, which
// cuts the interrupt off on a PC, is not looked at.
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

// Where the port's interrupt goes. Called with a change of the level only, and with the level when
// Reassert() is called.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void Set(bool high) = 0;
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
  // The transmitter has become empty and the guest has not been told: 0 or 1. Formats of before the
  // port had interrupts lack it; guests of theirs enable none.
  uint8_t transmitter_news = 0;
  std::array<uint8_t, kSerialFifoMax> fifo{};  // received and not yet read; [0] is next
  friend bool operator==(const SerialState&, const SerialState&) = default;
};

// Not thread-safe; the machine serialises port I/O.
class Serial {
 public:
  // `line` and `interrupt` must outlive the object; without `interrupt` nothing is wired, and the
  // guest that enables interrupts has to ask. REQUIRES: 1 <= fifo_depth <= kSerialFifoMax.
  Serial(SerialLine& line, size_t fifo_depth, InterruptLine* interrupt = nullptr);

  // `offset` < kSerialPortCount.
  uint8_t Read(uint16_t offset);
  void Write(uint16_t offset, uint8_t value);

  // Whether the guest waits for an interrupt that somebody has to notice for it: it wants one for
  // received data and has none. Then FetchInput() when the line has some.
  bool awaits_input() const;
  void FetchInput();
  // At most so many bytes at once from now on; the FIFO's depth if that is less. REQUIRES: depth
  // >= 1.
  void LimitInput(size_t depth);
  // No more bytes than that wait to be read.
  bool is_within_limit() const { return state_.fifo_count <= input_limit_; }

  const SerialState& state() const { return state_; }
  // Takes a saved state over; a FIFO that is deeper than ours is kept whole and drains. False, with
  // nothing changed, if fifo_count is out of range. The interrupt's level is not told: Reassert().
  bool Restore(const SerialState& state);
  // Tells the interrupt line its level once more: where it ends after a migration is a controller
  // that has not seen it. An edge too many makes a driver look and find nothing.
  void Reassert();

 private:
  bool DivisorLatched() const;
  uint8_t ReadData();
  uint8_t LineStatus();
  uint8_t ModemStatus() const;
  uint8_t InterruptId();
  uint8_t PendingInterrupt() const;
  void WriteData(uint8_t value);
  void WriteInterruptEnable(uint8_t value);
  void Push(uint8_t byte);
  void UpdateInterrupt();

  SerialLine& line_;
  const size_t fifo_depth_;
  size_t input_limit_;  // <= fifo_depth_
  InterruptLine* const interrupt_;
  bool interrupt_is_high_ = false;
  SerialState state_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SERIAL_H_
