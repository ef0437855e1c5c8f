// SPDX-License-Identifier: Apache-2.0
//
// The state area of a handover block, from a liar that computes its checksums. Promises: what is
// read keeps every bound, and written again and read again it is the same.
#include <cstring>

#include "tools/fuzz/fuzz_target.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/state_samples.h"

namespace rehome::fuzz {
namespace {

void CheckRoundTrip(const WholeState& state, uint32_t format) {
  StateWriter writer(format, kSampleVcpus);
  Bytes area(writer.capacity());
  REHOME_PROMISE(writer.PutVcpu(area, *state.vcpu).ok());
  REHOME_PROMISE(writer.PutVm(area, state.vm).ok());
  REHOME_PROMISE(writer.PutDevices(area, state.devices).ok());
  area.resize(writer.Finish(area));
  WholeState again;
  REHOME_PROMISE(ReadWholeState(area, format, &again));
  REHOME_PROMISE(std::memcmp(again.vcpu.get(), state.vcpu.get(), state.vcpu->used_bytes) == 0);
  REHOME_PROMISE(std::memcmp(&again.vm, &state.vm, sizeof(state.vm)) == 0);
  REHOME_PROMISE(again.devices.serial == state.devices.serial);
  REHOME_PROMISE(again.devices.hops == state.devices.hops);
  REHOME_PROMISE(again.devices.virtio_count == state.devices.virtio_count);
  for (size_t i = 0; i < state.devices.virtio_count; ++i) {
    REHOME_PROMISE(again.devices.virtio[i] == state.devices.virtio[i]);
  }
  REHOME_PROMISE(again.devices.console.pending == state.devices.console.pending);
  REHOME_PROMISE(again.devices.console.dropped_bytes == state.devices.console.dropped_bytes);
  REHOME_PROMISE(again.devices.console.client_attached == state.devices.console.client_attached);
}

Seed MakeSeed(const char* name, uint32_t format) {
  Seed seed{.name = name, .bytes = {static_cast<std::byte>(format)}};
  AppendBytes(seed.bytes, SampleState(format));
  return seed;
}

}  // namespace

// One byte: the format that was agreed on, and (bit 7) whether checksums stay as they are. The rest
// is the state.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const uint8_t terms = in.Take<uint8_t>();
  const uint32_t format = FormatOf(terms);
  Bytes bytes(in.rest().begin(), in.rest().end());
  if ((terms & 0x80) == 0) RepairChecksums(bytes);
  WholeState state;
  if (!ReadWholeState(bytes, format, &state)) return false;
  CheckRoundTrip(state, format);
  return true;
}

std::vector<Seed> Seeds() {
  return {MakeSeed("format-1", 1), MakeSeed("format-2", 2), MakeSeed("format-3", 3)};
}

}  // namespace rehome::fuzz
