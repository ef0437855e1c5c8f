// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/state_format.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint64_t kStateMagic = 0x31455441545352ull;  // "RSTATE1"

// Numbers of the format: never re-used.
enum SectionType : uint32_t {
  kVcpu = 1,
  kVm = 2,
  kSerial = 3,
  kConsole = 4,
  kHistory = 5,  // from format 2
  kVirtio = 6,   // from format 3
};

// Sections follow the vCPUs' in this order; the console's, which has the most room and mostly needs
// none, is the last.
enum AfterVcpus : size_t { kVmAt = 0, kSerialAt = 1, kHistoryAt = 2, kVirtioAt = 3 };
size_t ConsoleAt(uint32_t format) {
  if (format == 1) return kHistoryAt;
  return format == 2 ? kVirtioAt : kVirtioAt + 1;
}

// On-disk, as it were. Little-endian, no padding.
struct SerialSectionV1 {
  uint8_t interrupt_enable, fifo_control, line_control, modem_control;
  uint8_t scratch, divisor_low, divisor_high;
  uint8_t received_count;
  uint8_t received[1];
  uint8_t reserved[7];
};
static_assert(sizeof(SerialSectionV1) == 16);

struct SerialSectionV2 {
  uint8_t interrupt_enable, fifo_control, line_control, modem_control;
  uint8_t scratch, divisor_low, divisor_high;
  uint8_t received_count;
  uint8_t received[kSerialFifoMax];
};
static_assert(sizeof(SerialSectionV2) == 24);

struct SerialSectionV3 {
  SerialSectionV2 v2;
  uint8_t transmitter_news;  // 0 or 1
  uint8_t reserved[7];
};
static_assert(sizeof(SerialSectionV3) == 32);

// Followed by the pending bytes.
struct ConsoleSection {
  uint32_t client_attached;  // 0 or 1
  uint32_t pending_bytes;
  uint64_t dropped_bytes;
};
static_assert(sizeof(ConsoleSection) == 16);

struct HistorySection {
  uint64_t hops;
};

// What a console section can hold, on the stack of whoever reads or writes it.
struct ConsoleBuffer {
  ConsoleSection fixed;
  char pending[kMaxPending];
};

absl::Status Malformed(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "STATE_MALFORMED", what);
}

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span<const T>(&value, 1));
}

template <typename T>
std::span<std::byte> WritableBytesOf(T& value) {
  return std::as_writable_bytes(std::span<T>(&value, 1));
}

size_t SerialBytes(uint32_t format) {
  if (format == 1) return sizeof(SerialSectionV1);
  return format == 2 ? sizeof(SerialSectionV2) : sizeof(SerialSectionV3);
}

std::vector<SectionSpec> Specs(uint32_t format, uint32_t vcpu_count) {
  std::vector<SectionSpec> specs;
  for (uint32_t i = 0; i < vcpu_count; ++i) specs.push_back({kVcpu, i, sizeof(VcpuState)});
  specs.push_back({kVm, 0, sizeof(VmState)});
  specs.push_back({kSerial, 0, SerialBytes(format)});
  if (format >= 2) specs.push_back({kHistory, 0, sizeof(HistorySection)});
  if (format >= 3) specs.push_back({kVirtio, 0, sizeof(DeviceState::virtio)});
  specs.push_back({kConsole, 0, sizeof(ConsoleBuffer)});
  return specs;
}

template <typename Section>
Section PackSerial(const SerialState& state) {
  Section section = {};
  section.interrupt_enable = state.interrupt_enable;
  section.fifo_control = state.fifo_control;
  section.line_control = state.line_control;
  section.modem_control = state.modem_control;
  section.scratch = state.scratch;
  section.divisor_low = state.divisor_low;
  section.divisor_high = state.divisor_high;
  section.received_count = state.fifo_count;
  std::copy_n(state.fifo.begin(), std::size(section.received), section.received);
  return section;
}

template <typename Section>
absl::Status UnpackSerial(const Section& section, SerialState& state) {
  if (section.received_count > std::size(section.received)) {
    return Malformed("more received bytes than the serial port holds");
  }
  state = {.interrupt_enable = section.interrupt_enable,
           .fifo_control = section.fifo_control,
           .line_control = section.line_control,
           .modem_control = section.modem_control,
           .scratch = section.scratch,
           .divisor_low = section.divisor_low,
           .divisor_high = section.divisor_high,
           .fifo_count = section.received_count};
  std::copy_n(section.received, section.received_count, state.fifo.begin());
  return absl::OkStatus();
}

absl::Status UnpackSerialV3(const SerialSectionV3& section, SerialState& state) {
  absl::Status status = UnpackSerial(section.v2, state);
  if (!status.ok()) return status;
  if (section.transmitter_news > 1) return Malformed("the serial port's interrupt");
  state.transmitter_news = section.transmitter_news;
  return absl::OkStatus();
}

// Reads a serial section of its type and unpacks it.
template <typename Section, typename Unpack>
absl::Status ReadSerial(const SectionReader& sections, SerialState& state, Unpack unpack) {
  Section section;
  absl::Status status = sections.CopyExact(kSerial, 0, WritableBytesOf(section));
  return status.ok() ? unpack(section, state) : status;
}

absl::Status ReadSerialOf(uint32_t format, const SectionReader& sections, SerialState& state) {
  switch (format) {
    case 1:
      return ReadSerial<SerialSectionV1>(sections, state, UnpackSerial<SerialSectionV1>);
    case 2:
      return ReadSerial<SerialSectionV2>(sections, state, UnpackSerial<SerialSectionV2>);
  }
  return ReadSerial<SerialSectionV3>(sections, state, UnpackSerialV3);
}

absl::Status ReadVirtio(const SectionReader& sections, DeviceState& state) {
  const auto length = sections.Copy(kVirtio, 0, WritableBytesOf(state.virtio));
  if (!length.ok()) return length.status();
  if (*length % sizeof(virtio::VirtioState) != 0) return Malformed("the virtio section");
  state.virtio_count = *length / sizeof(virtio::VirtioState);
  for (size_t i = 0; i < state.virtio_count; ++i) {
    absl::Status status = state.virtio[i].Validate();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

size_t SerialDepthOf(uint32_t format) { return format == 1 ? 1 : kSerialFifoMax; }

StateWriter::StateWriter(uint32_t format, uint32_t vcpu_count)
    : format_(format),
      vcpu_count_(vcpu_count),
      sections_(kStateMagic, format, Specs(format, vcpu_count)) {}

absl::Status StateWriter::PutVcpu(std::span<std::byte> area, const VcpuState& state) {
  return sections_.Put(area, state.vcpu_index, BytesOf(state).first(state.used_bytes));
}

absl::Status StateWriter::PutVm(std::span<std::byte> area, const VmState& state) {
  return sections_.Put(area, vcpu_count_ + kVmAt, BytesOf(state));
}

absl::Status StateWriter::PutDevices(std::span<std::byte> area, const DeviceState& state) {
  absl::Status status = PutSerial(area, state.serial);
  if (!status.ok()) return status;

  ConsoleBuffer console;
  const size_t pending = std::min(state.console.pending.size(), sizeof(console.pending));
  console.fixed = {.client_attached = state.console.client_attached ? 1u : 0u,
                   .pending_bytes = static_cast<uint32_t>(pending),
                   .dropped_bytes = state.console.dropped_bytes};
  std::memcpy(console.pending, state.console.pending.data(), pending);
  status = sections_.Put(area, vcpu_count_ + ConsoleAt(format_),
                         BytesOf(console).first(sizeof(console.fixed) + pending));
  if (!status.ok() || format_ == 1) return status;
  status = sections_.Put(area, vcpu_count_ + kHistoryAt, BytesOf(HistorySection{state.hops}));
  if (!status.ok() || format_ == 2) return status;
  return sections_.Put(area, vcpu_count_ + kVirtioAt,
                       std::as_bytes(std::span(state.virtio).first(state.virtio_count)));
}

absl::Status StateWriter::PutSerial(std::span<std::byte> area, const SerialState& state) {
  const size_t at = vcpu_count_ + kSerialAt;
  // Nobody has looked away while it was filled (Devices::LimitInput()), but a guest can fill it by
  // itself, in loopback.
  if (state.fifo_count > SerialDepthOf(format_)) {
    return MakeStatus(
        absl::StatusCode::kUnavailable, "DEVICE_BUSY",
        absl::StrCat("the serial port holds ", state.fifo_count, " received bytes, format ",
                     format_, " has room for ", SerialDepthOf(format_)));
  }
  if (format_ == 1) return sections_.Put(area, at, BytesOf(PackSerial<SerialSectionV1>(state)));
  if (format_ == 2) return sections_.Put(area, at, BytesOf(PackSerial<SerialSectionV2>(state)));
  const SerialSectionV3 section = {.v2 = PackSerial<SerialSectionV2>(state),
                                   .transmitter_news = state.transmitter_news,
                                   .reserved = {}};
  return sections_.Put(area, at, BytesOf(section));
}

absl::StatusOr<StateReader> StateReader::Open(std::span<const std::byte> bytes, uint32_t format,
                                              uint32_t vcpu_count) {
  const auto sections = SectionReader::Open(kStateMagic, bytes);
  if (!sections.ok()) return sections.status();
  if (sections->format() != format) {
    return MakeStatus(
        absl::StatusCode::kFailedPrecondition, "STATE_FORMAT_UNSUPPORTED",
        absl::StrCat("state has format ", sections->format(), ", agreed on was ", format));
  }
  if (sections->entries().size() != vcpu_count + ConsoleAt(format) + 1) {
    return Malformed(
        absl::StrCat(sections->entries().size(), " sections for ", vcpu_count, " vCPUs"));
  }
  return StateReader(*sections);
}

absl::Status StateReader::ReadVcpu(uint32_t index, VcpuState& state) const {
  const auto length = sections_.Copy(kVcpu, index, WritableBytesOf(state));
  if (!length.ok()) return length.status();
  if (*length < offsetof(VcpuState, xsave)) return Malformed("a vCPU section is too short");
  absl::Status status = state.Validate();
  if (!status.ok()) return status;
  if (state.used_bytes != *length || state.vcpu_index != index) {
    return Malformed("a vCPU section disagrees with its content");
  }
  return absl::OkStatus();
}

absl::Status StateReader::ReadVm(VmState& state) const {
  absl::Status status = sections_.CopyExact(kVm, 0, WritableBytesOf(state));
  return status.ok() ? state.Validate() : status;
}

absl::Status StateReader::ReadDevices(DeviceState& state) const {
  absl::Status status = ReadSerialOf(sections_.format(), sections_, state.serial);
  if (!status.ok()) return status;

  ConsoleBuffer console;
  const auto length = sections_.Copy(kConsole, 0, WritableBytesOf(console));
  if (!length.ok()) return length.status();
  if (*length < sizeof(console.fixed) || console.fixed.client_attached > 1 ||
      *length - sizeof(console.fixed) != console.fixed.pending_bytes) {
    return Malformed("the console section");
  }
  state.console.client_attached = console.fixed.client_attached == 1;
  state.console.dropped_bytes = console.fixed.dropped_bytes;
  state.console.pending.assign(console.pending, console.fixed.pending_bytes);

  HistorySection history = {};
  if (sections_.format() >= 2) {
    status = sections_.CopyExact(kHistory, 0, WritableBytesOf(history));
  }
  state.hops = history.hops;
  state.virtio_count = 0;
  if (!status.ok() || sections_.format() < 3) return status;
  return ReadVirtio(sections_, state);
}

}  // namespace rehome
