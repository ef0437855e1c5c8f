// SPDX-License-Identifier: Apache-2.0
//
// Devices on a VM of a real kernel, as the machine has them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/why_no_kvm.h"
#include "vmm/reference/virtio_bus.h"

namespace rehome {
namespace {

constexpr std::chrono::milliseconds kLimit{10'000};
// virtio 1.2, 4.2.2: offsets and values of registers.
constexpr uint64_t kMagicOffset = 0, kDeviceIdOffset = 8;
constexpr uint32_t kMagic = 0x74726976, kBlockId = 2;

class VirtioBusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }
  std::unique_ptr<Vm> MakeVm() {
    auto vm = Vm::Create(*kernel_, VmType::kDefault, LinkAbi{});
    EXPECT_TRUE(vm.ok()) << vm.status();
    EXPECT_TRUE((*vm)->CreateIrqchip().ok());
    return *std::move(vm);
  }
  UniqueFd Disk() {
    UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(fd.borrow().raw(), 1 << 20), 0);
    return fd;
  }
  std::unique_ptr<VirtioBus> MakeBus(Vm& vm, size_t disks) {
    std::vector<DevicePart> parts;
    for (size_t i = 0; i < disks; ++i) {
      parts.push_back({.config = {.kind = DeviceKind::kBlock}, .fd = Disk()});
    }
    auto bus = VirtioBus::Create(vm, {{0, ram_}}, std::move(parts));
    EXPECT_TRUE(bus.ok()) << bus.status();
    return *std::move(bus);
  }
  static uint32_t Read(VirtioBus& bus, uint64_t gpa) {
    uint8_t bytes[4] = {};
    EXPECT_TRUE(bus.Access({.gpa = gpa, .is_write = false, .data = bytes}));
    uint32_t value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }

  const std::unique_ptr<KvmSyscalls> kernel_ = OpenRealKvm();
  std::vector<std::byte> ram_ = std::vector<std::byte>(1 << 20);
};

TEST_F(VirtioBusTest, EachDeviceIsAtItsPlaceAndNothingIsElsewhere) {
  const auto vm = MakeVm();
  const auto bus = MakeBus(*vm, 2);
  for (size_t i = 0; i < 2; ++i) {
    const uint64_t base = kVirtioMmioBase + i * kVirtioMmioStride;
    EXPECT_EQ(Read(*bus, base + kMagicOffset), kMagic);
    EXPECT_EQ(Read(*bus, base + kDeviceIdOffset), kBlockId);
  }
  uint8_t bytes[4];
  for (const uint64_t gpa : {kVirtioMmioBase - 4, kVirtioMmioBase + 2 * kVirtioMmioStride}) {
    EXPECT_FALSE(bus->Access({.gpa = gpa, .is_write = false, .data = bytes})) << gpa;
  }
}

TEST_F(VirtioBusTest, IsConnectedAgainAfterAMigrationThatWasGivenUp) {
  const auto vm = MakeVm();
  const auto bus = MakeBus(*vm, 1);
  ASSERT_TRUE(bus->Start().ok());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(bus->Stop(kLimit).ok());
    ASSERT_TRUE(bus->ReleaseInterrupts().ok());
    ASSERT_TRUE(bus->Start().ok());
  }
}

TEST_F(VirtioBusTest, TheStateGoesToTheSameDevicesOfAnotherVm) {
  const auto vm = MakeVm(), next_vm = MakeVm();
  const auto bus = MakeBus(*vm, 2), next = MakeBus(*next_vm, 2);
  ASSERT_TRUE(bus->Start().ok());
  std::vector<virtio::VirtioState> states(2);
  EXPECT_EQ(ReasonOf(bus->Save(states)), "DEVICE_RUNNING");
  ASSERT_TRUE(bus->Stop(kLimit).ok());
  ASSERT_TRUE(bus->ReleaseInterrupts().ok());
  ASSERT_TRUE(bus->Save(states).ok());
  EXPECT_TRUE(next->Restore(states).ok());
  EXPECT_TRUE(next->Start().ok());
  states[1].device_id = 1;
  const auto other = MakeVm();
  EXPECT_EQ(ReasonOf(MakeBus(*other, 2)->Restore(states)), "VIRTIO_DEVICE_MISMATCH");
}

TEST(VirtioCmdlineTest, NamesEachDevice) {
  EXPECT_EQ(VirtioCmdline(0), "");
  EXPECT_EQ(VirtioCmdline(2),
            " virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6");
}

}  // namespace
}  // namespace rehome
