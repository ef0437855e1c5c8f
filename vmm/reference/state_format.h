// SPDX-License-Identifier: Apache-2.0
//
// What rehome-vmm writes into the state area of a handover block.
//
//   format 1 (rehome-vmm 1.x): one VCPU section per vCPU, VM, SERIAL (registers and one received
//            byte: it has a 16450), CONSOLE
//   format 2 (rehome-vmm 2.x): the same, but SERIAL with the FIFO of a 16550, and HISTORY, which
//   counts
//            how often the guest has moved
//   format 3 (rehome-vmm 2.x, of a Linux guest): as 2, but SERIAL with the state of its interrupt,
//   and
//            VIRTIO, the virtio devices in the order of the configuration
//
// A VMM writes the format that it is told, of those that version.cc gives for its kind of guest,
// and reads its own and older ones. What a format lacks starts at its default: a guest that has
// been at version 1 begins to count its moves anew. So a payload guest goes between versions both
// ways, and a Linux guest only to a VMM that knows what it has. The layout of VCPU and VM is
// kvmglue's (vcpu_state.h, vm_state.h), which carry versions of their own.
#ifndef REHOME_VMM_REFERENCE_STATE_FORMAT_H_
#define REHOME_VMM_REFERENCE_STATE_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm_state.h"
#include "vmm/reference/console.h"
#include "vmm/reference/device_config.h"
#include "vmm/reference/sections.h"
#include "vmm/reference/serial.h"
#include "vmm/reference/virtio/state.h"

namespace rehome {

inline constexpr uint32_t kOldestStateFormat = 1;
inline constexpr uint32_t kLinuxStateFormat = 3;
inline constexpr uint32_t kNewestStateFormat = 3;

// Received bytes that the serial port of that format can hold.
size_t SerialDepthOf(uint32_t format);

// Everything of the VMM's own devices that the guest or its user can see.
struct DeviceState {
  SerialState serial;
  ConsoleState console;
  uint64_t hops = 0;  // migrations so far
  size_t virtio_count = 0;
  std::array<virtio::VirtioState, kMaxDevices> virtio;
};

// Writes one state. Nothing here allocates after construction, and each Put may be called by
// another thread; Finish() comes after all of them. Errors: INVALID_ARGUMENT / SECTION_TOO_LARGE;
// UNAVAILABLE / DEVICE_BUSY for a serial port that holds more than the format does.
class StateWriter {
 public:
  // REQUIRES: kOldestStateFormat <= format <= kNewestStateFormat.
  StateWriter(uint32_t format, uint32_t vcpu_count);

  // The most that a state takes.
  size_t capacity() const { return sections_.capacity(); }

  absl::Status PutVcpu(std::span<std::byte> area, const VcpuState& state);
  absl::Status PutVm(std::span<std::byte> area, const VmState& state);
  absl::Status PutDevices(std::span<std::byte> area, const DeviceState& state);
  // Returns the bytes used.
  size_t Finish(std::span<std::byte> area) { return sections_.Finish(area); }

 private:
  absl::Status PutSerial(std::span<std::byte> area, const SerialState& state);

  const uint32_t format_;
  const uint32_t vcpu_count_;
  SectionWriter sections_;
};

// Reads a state out of memory that somebody else may still write to: whatever is judged or returned
// has been copied first. Reading copies each section once and does not allocate, but for
// ReadDevices() where output is pending. Errors are INVALID_ARGUMENT with reason STATE_MALFORMED,
// VCPU_STATE_INVALID or VM_STATE_INVALID; FAILED_PRECONDITION / STATE_FORMAT_UNSUPPORTED for a
// format that is not the one expected. What was read into is then undefined.
class StateReader {
 public:
  // `format` and `vcpu_count` are what was agreed on before. `bytes` must outlive the reader.
  static absl::StatusOr<StateReader> Open(std::span<const std::byte> bytes, uint32_t format,
                                          uint32_t vcpu_count);

  // A state of vCPU `index`, validated.
  absl::Status ReadVcpu(uint32_t index, VcpuState& state) const;
  absl::Status ReadVm(VmState& state) const;
  absl::Status ReadDevices(DeviceState& state) const;

 private:
  explicit StateReader(const SectionReader& sections) : sections_(sections) {}

  SectionReader sections_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_STATE_FORMAT_H_
