// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/state_format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint32_t kXsaveBytes = 4096;

// The smallest states that kvmglue accepts.
std::unique_ptr<VcpuState> SomeVcpu(uint32_t index) {
  auto state = std::make_unique<VcpuState>();
  std::memset(state.get(), 0, sizeof(*state));
  state->magic = kVcpuStateMagic;
  state->version = kVcpuStateVersion;
  state->vcpu_index = index;
  state->blocks = kBlocksRequired;
  state->xsave_bytes = kXsaveBytes;
  state->used_bytes = VcpuStateBytes(kXsaveBytes);
  state->regs.rax = 0x1000 + index;
  return state;
}

std::unique_ptr<VmState> SomeVm() {
  auto state = std::make_unique<VmState>();
  std::memset(state.get(), 0, sizeof(*state));
  state->magic = kVmStateMagic;
  state->version = kVmStateVersion;
  state->clock.clock = 4711;
  return state;
}

DeviceState SomeDevices(size_t received) {
  DeviceState state;
  state.serial.scratch = 0x5a;
  state.serial.line_control = 3;
  state.serial.fifo_count = static_cast<uint8_t>(received);
  for (size_t i = 0; i < received; ++i) state.serial.fifo[i] = static_cast<uint8_t>('a' + i);
  state.console = {.client_attached = true, .dropped_bytes = 17, .pending = "not yet sent"};
  state.hops = 5;
  state.serial.transmitter_news = 1;
  state.virtio_count = 2;
  for (size_t i = 0; i < state.virtio_count; ++i) {
    state.virtio[i].device_id = 2;
    state.virtio[i].queue_count = 1;
    state.virtio[i].status = 0xb;  // acknowledged, driver, features accepted
    state.virtio[i].driver_features = 1ull << 32;
    state.virtio[i].queues[0].ready = 1;
    state.virtio[i].queues[0].size = 16;
    state.virtio[i].queues[0].index = static_cast<uint16_t>(100 + i);
  }
  return state;
}

std::vector<std::byte> Sample(uint32_t format, uint32_t vcpus, size_t received) {
  StateWriter writer(format, vcpus);
  std::vector<std::byte> area(writer.capacity());
  for (uint32_t i = 0; i < vcpus; ++i) {
    EXPECT_TRUE(writer.PutVcpu(area, *SomeVcpu(i)).ok());
  }
  EXPECT_TRUE(writer.PutVm(area, *SomeVm()).ok());
  EXPECT_TRUE(writer.PutDevices(area, SomeDevices(received)).ok());
  area.resize(writer.Finish(area));
  return area;
}

// Reads everything; the first error, or OK.
absl::Status ReadAll(const std::vector<std::byte>& bytes, uint32_t format, uint32_t vcpus,
                     DeviceState* devices) {
  const auto reader = StateReader::Open(bytes, format, vcpus);
  if (!reader.ok()) return reader.status();
  auto vcpu = std::make_unique<VcpuState>();
  for (uint32_t i = 0; i < vcpus; ++i) {
    absl::Status status = reader->ReadVcpu(i, *vcpu);
    if (!status.ok()) return status;
    if (vcpu->regs.rax != 0x1000 + i) return absl::DataLossError("register");
  }
  auto vm = std::make_unique<VmState>();
  absl::Status status = reader->ReadVm(*vm);
  if (!status.ok()) return status;
  if (vm->clock.clock != 4711) return absl::DataLossError("clock");
  return reader->ReadDevices(*devices);
}

// What a format before the third has of a serial port.
SerialState WithoutInterrupts(SerialState serial) {
  serial.transmitter_news = 0;
  return serial;
}

TEST(StateFormatTest, Format3CarriesEverything) {
  DeviceState devices;
  const absl::Status status = ReadAll(Sample(3, 3, 16), 3, 3, &devices);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(devices.serial, SomeDevices(16).serial);
  EXPECT_EQ(devices.hops, 5u);
  EXPECT_EQ(devices.console.pending, "not yet sent");
  EXPECT_EQ(devices.virtio_count, 2u);
  EXPECT_EQ(devices.virtio, SomeDevices(16).virtio);
}

TEST(StateFormatTest, Format2CarriesAllThatAPayloadGuestHas) {
  DeviceState devices;
  const absl::Status status = ReadAll(Sample(2, 3, 16), 2, 3, &devices);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(devices.serial, WithoutInterrupts(SomeDevices(16).serial));
  EXPECT_EQ(devices.virtio_count, 0u);
  EXPECT_EQ(devices.hops, 5u);
  EXPECT_TRUE(devices.console.client_attached);
  EXPECT_EQ(devices.console.dropped_bytes, 17u);
  EXPECT_EQ(devices.console.pending, "not yet sent");
}

TEST(StateFormatTest, Format1CarriesItsOneReceivedByteAndNoHistory) {
  DeviceState devices;
  const absl::Status status = ReadAll(Sample(1, 1, 1), 1, 1, &devices);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(devices.serial, WithoutInterrupts(SomeDevices(1).serial));
  EXPECT_EQ(devices.hops, 0u);
  EXPECT_EQ(devices.console.pending, "not yet sent");
}

// Bytes that a reader would refuse, or lose, are refused where the guest can still go on.
TEST(StateFormatTest, Format1TakesNoMoreThanItsOneByte) {
  StateWriter writer(1, 1);
  std::vector<std::byte> area(writer.capacity());
  EXPECT_EQ(ReasonOf(writer.PutDevices(area, SomeDevices(2))), "DEVICE_BUSY");
  EXPECT_TRUE(writer.PutDevices(area, SomeDevices(1)).ok());
}

TEST(StateFormatTest, NoFormatNeedsMoreRoomThanANewerOne) {
  for (uint32_t format = kOldestStateFormat; format < kNewestStateFormat; ++format) {
    EXPECT_LE(StateWriter(format, 3).capacity(), StateWriter(format + 1, 3).capacity()) << format;
  }
}

TEST(StateFormatTest, AFullConsoleFits) {
  StateWriter writer(2, 1);
  std::vector<std::byte> area(writer.capacity());
  DeviceState state;
  state.console.client_attached = true;
  state.console.pending.assign(kMaxPending, 'x');
  ASSERT_TRUE(writer.PutVcpu(area, *SomeVcpu(0)).ok());
  ASSERT_TRUE(writer.PutVm(area, *SomeVm()).ok());
  ASSERT_TRUE(writer.PutDevices(area, state).ok());
  area.resize(writer.Finish(area));
  DeviceState read;
  const absl::Status status = ReadAll(area, 2, 1, &read);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(read.console.pending, state.console.pending);
}

TEST(StateFormatTest, AnotherFormatThanAgreedOnIsRefused) {
  EXPECT_EQ(ReasonOf(StateReader::Open(Sample(2, 1, 0), 1, 1).status()),
            "STATE_FORMAT_UNSUPPORTED");
  EXPECT_EQ(ReasonOf(StateReader::Open(Sample(1, 1, 0), 2, 1).status()),
            "STATE_FORMAT_UNSUPPORTED");
}

TEST(StateFormatTest, AnotherNumberOfVcpusIsRefused) {
  EXPECT_EQ(ReasonOf(StateReader::Open(Sample(2, 2, 0), 2, 1).status()), "STATE_MALFORMED");
  EXPECT_EQ(ReasonOf(StateReader::Open(Sample(2, 2, 0), 2, 3).status()), "STATE_MALFORMED");
}

TEST(StateFormatTest, EveryTruncationIsRefused) {
  const std::vector<std::byte> sample = Sample(2, 1, 3);
  std::set<std::string> reasons;
  DeviceState devices;
  for (size_t length = 0; length < sample.size(); ++length) {
    reasons.insert(ReasonOf(ReadAll({sample.begin(), sample.begin() + length}, 2, 1, &devices)));
  }
  EXPECT_EQ(reasons, std::set<std::string>{"STATE_MALFORMED"});
}

TEST(StateFormatTest, EveryBitFlipIsRefusedOrHitsPadding) {
  for (const uint32_t format : {1u, 2u, 3u}) {
    const std::vector<std::byte> sample = Sample(format, 1, 1);
    const std::set<std::string> kAllowed = {"", "STATE_MALFORMED", "STATE_FORMAT_UNSUPPORTED"};
    size_t accepted = 0;
    for (size_t bit = 0; bit < sample.size() * 8; ++bit) {
      std::vector<std::byte> flipped = sample;
      flipped[bit / 8] ^= std::byte{1} << (bit % 8);
      DeviceState devices;
      const std::string reason = ReasonOf(ReadAll(flipped, format, 1, &devices));
      EXPECT_TRUE(kAllowed.contains(reason)) << bit << " " << reason;
      if (!reason.empty()) continue;
      ++accepted;
      EXPECT_EQ(WithoutInterrupts(devices.serial), WithoutInterrupts(SomeDevices(1).serial));
      EXPECT_EQ(devices.console.pending, "not yet sent");
    }
    // Unused room: of the vCPU's section where XSAVE could be larger, and of devices that are not
    // there. Little else may be.
    const size_t no_device = format < 3 ? 0 : sizeof(DeviceState::virtio);
    EXPECT_LT(accepted, (sizeof(VcpuState) - VcpuStateBytes(kXsaveBytes) + no_device + 5 * 64) * 8);
  }
}

// A liar's checksums are right, so every content has to be survived by its own reader.
TEST(StateFormatTest, ImpossibleContentsAreRefused) {
  const auto with_vcpu = [](auto change) {
    StateWriter writer(2, 1);
    std::vector<std::byte> area(writer.capacity());
    auto vcpu = SomeVcpu(0);
    change(*vcpu);
    EXPECT_TRUE(writer.PutVm(area, *SomeVm()).ok());
    EXPECT_TRUE(writer.PutDevices(area, SomeDevices(0)).ok());
    vcpu->vcpu_index = 0;  // where to put it
    EXPECT_TRUE(writer.PutVcpu(area, *vcpu).ok());
    area.resize(writer.Finish(area));
    DeviceState devices;
    return ReasonOf(ReadAll(area, 2, 1, &devices));
  };
  EXPECT_EQ(with_vcpu([](VcpuState&) {}), "");
  EXPECT_EQ(with_vcpu([](VcpuState& v) { v.msrs.count = kMaxMsrs + 1; }), "VCPU_STATE_INVALID");
  EXPECT_EQ(with_vcpu([](VcpuState& v) { v.xsave_bytes = kMaxXsaveBytes + 1; }),
            "VCPU_STATE_INVALID");
  EXPECT_EQ(with_vcpu([](VcpuState& v) { v.used_bytes = 100; }), "STATE_MALFORMED");
  EXPECT_EQ(with_vcpu([](VcpuState& v) { v.magic = 0; }), "VCPU_STATE_INVALID");
}

TEST(StateFormatTest, ImpossibleDevicesAreRefused) {
  const auto with_devices = [](auto change) {
    StateWriter writer(3, 1);
    std::vector<std::byte> area(writer.capacity());
    DeviceState written = SomeDevices(0);
    change(written);
    EXPECT_TRUE(writer.PutVcpu(area, *SomeVcpu(0)).ok());
    EXPECT_TRUE(writer.PutVm(area, *SomeVm()).ok());
    EXPECT_TRUE(writer.PutDevices(area, written).ok());
    area.resize(writer.Finish(area));
    DeviceState devices;
    return ReasonOf(ReadAll(area, 3, 1, &devices));
  };
  EXPECT_EQ(with_devices([](DeviceState&) {}), "");
  EXPECT_EQ(with_devices([](DeviceState& s) { s.serial.transmitter_news = 2; }), "STATE_MALFORMED");
  EXPECT_EQ(with_devices([](DeviceState& s) { s.virtio[1].magic = 0; }), "VIRTIO_STATE_INVALID");
  EXPECT_EQ(with_devices([](DeviceState& s) { s.virtio[0].queue_count = 99; }),
            "VIRTIO_STATE_INVALID");
}

TEST(StateFormatTest, SomebodyElsesVcpuIsRefused) {
  StateWriter writer(2, 2);
  std::vector<std::byte> area(writer.capacity());
  ASSERT_TRUE(writer.PutVcpu(area, *SomeVcpu(0)).ok());
  ASSERT_TRUE(writer.PutVm(area, *SomeVm()).ok());
  ASSERT_TRUE(writer.PutDevices(area, SomeDevices(0)).ok());
  area.resize(writer.Finish(area));
  const auto reader = StateReader::Open(area, 2, 2);
  ASSERT_TRUE(reader.ok()) << reader.status();
  auto state = std::make_unique<VcpuState>();
  EXPECT_TRUE(reader->ReadVcpu(0, *state).ok());
  // The second was never put.
  EXPECT_EQ(ReasonOf(reader->ReadVcpu(1, *state)), "STATE_MALFORMED");
  EXPECT_EQ(ReasonOf(reader->ReadVcpu(2, *state)), "STATE_MALFORMED");
}

}  // namespace
}  // namespace rehome
