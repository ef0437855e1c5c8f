// SPDX-License-Identifier: Apache-2.0
//
// States as StateWriter writes them, for the fuzz targets that read them.
#ifndef REHOME_VMM_REFERENCE_STATE_SAMPLES_H_
#define REHOME_VMM_REFERENCE_STATE_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tools/fuzz/fuzz_target.h"
#include "vmm/reference/state_format.h"

namespace rehome::fuzz {

inline constexpr uint32_t kSampleVcpus = 1;

// The smallest vCPU that kvmglue accepts.
inline std::unique_ptr<VcpuState> SampleVcpu(uint32_t index) {
  auto state = std::make_unique<VcpuState>();
  state->magic = kVcpuStateMagic;
  state->version = kVcpuStateVersion;
  state->vcpu_index = index;
  state->blocks = kBlocksRequired;
  state->xsave_bytes = sizeof(kvm_xsave);
  state->used_bytes = VcpuStateBytes(sizeof(kvm_xsave));
  return state;
}

// The format that a target says it has agreed on: `terms` itself for a number of one, another for
// what is none.
inline uint32_t FormatOf(uint8_t terms) {
  constexpr uint32_t kFormats = kNewestStateFormat - kOldestStateFormat + 1;
  return kOldestStateFormat + ((terms & 0x7f) + kFormats - kOldestStateFormat) % kFormats;
}

inline Bytes SampleState(uint32_t format) {
  StateWriter writer(format, kSampleVcpus);
  Bytes area(writer.capacity());
  VmState vm = {};
  vm.magic = kVmStateMagic;
  vm.version = kVmStateVersion;
  DeviceState devices;
  devices.serial.fifo_count = 1;
  devices.serial.fifo[0] = 'a';
  devices.console = {.client_attached = true, .dropped_bytes = 17, .pending = "not yet sent"};
  devices.hops = 5;
  devices.virtio_count = 1;
  devices.virtio[0].device_id = 2;
  devices.virtio[0].queue_count = 1;
  for (uint32_t i = 0; i < kSampleVcpus; ++i) {
    REHOME_PROMISE(writer.PutVcpu(area, *SampleVcpu(i)).ok());
  }
  REHOME_PROMISE(writer.PutVm(area, vm).ok() && writer.PutDevices(area, devices).ok());
  area.resize(writer.Finish(area));
  return area;
}

// Puts right whatever checksums the bytes have room for: a fuzzer does not guess 64 bits, a liar
// computes them. REQUIRES: nobody else writes to `bytes`.
inline void RepairChecksums(std::span<std::byte> bytes) {
  SectionHeader header;
  if (bytes.size() < sizeof(header)) return;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.section_count == 0) return;
  std::vector<SectionEntry> entries(std::min<size_t>(header.section_count, kMaxSections));
  const size_t table_bytes = entries.size() * sizeof(SectionEntry);
  if (bytes.size() - sizeof(header) < table_bytes) return;
  std::byte* table = bytes.data() + sizeof(header);
  std::memcpy(entries.data(), table, table_bytes);
  for (SectionEntry& entry : entries) {
    if (entry.offset > bytes.size() || entry.length > bytes.size() - entry.offset) continue;
    entry.checksum = SectionChecksum(bytes.subspan(entry.offset, entry.length));
  }
  std::memcpy(table, entries.data(), table_bytes);
  header.checksum = SectionTableChecksum(header, entries);
  std::memcpy(bytes.data(), &header, sizeof(header));
}

// What a state says, all of it, or why it cannot be read.
struct WholeState {
  std::unique_ptr<VcpuState> vcpu = std::make_unique<VcpuState>();
  VmState vm = {};
  DeviceState devices;
};

// Reads everything, and checks that what is handed out keeps the bounds that a target relies on.
inline bool ReadWholeState(std::span<const std::byte> bytes, uint32_t format, WholeState* whole) {
  const auto reader = StateReader::Open(bytes, format, kSampleVcpus);
  if (!reader.ok() || !reader->ReadVcpu(0, *whole->vcpu).ok() || !reader->ReadVm(whole->vm).ok() ||
      !reader->ReadDevices(whole->devices).ok()) {
    return false;
  }
  REHOME_PROMISE(whole->vcpu->Validate().ok() && whole->vcpu->used_bytes <= sizeof(VcpuState));
  REHOME_PROMISE(whole->vcpu->vcpu_index == 0);
  REHOME_PROMISE(whole->vm.Validate().ok());
  REHOME_PROMISE(whole->devices.serial.fifo_count <= SerialDepthOf(format));
  REHOME_PROMISE(whole->devices.serial.transmitter_news <= 1);
  REHOME_PROMISE(whole->devices.console.pending.size() <= kMaxPending);
  REHOME_PROMISE(whole->devices.virtio_count <= kMaxDevices);
  for (size_t i = 0; i < whole->devices.virtio_count; ++i) {
    REHOME_PROMISE(whole->devices.virtio[i].Validate().ok());
  }
  return true;
}

}  // namespace rehome::fuzz

#endif  // REHOME_VMM_REFERENCE_STATE_SAMPLES_H_
