// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vm_config.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>

#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

VmConfig Sample() {
  VmConfig config{.vm_id = "demo", .vm_type = VmType::kSwProtected, .ram_bytes = 64 << 20};
  config.cpuid.push_back(std::vector<std::byte>(100, std::byte{1}));
  config.cpuid.push_back(std::vector<std::byte>(kMaxCpuidBytes, std::byte{2}));
  return config;
}

UniqueFd Memfd(const std::vector<std::byte>& bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(write(fd.borrow().raw(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
  return fd;
}

TEST(VmConfigTest, WhatWasWrittenIsRead) {
  const auto fd = WriteVmConfig(Sample());
  ASSERT_TRUE(fd.ok()) << fd.status();
  const auto config = ReadVmConfig(fd->borrow());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, Sample());
}

VmConfig LinuxSample() {
  VmConfig config = Sample();
  config.vm_type = VmType::kDefault;
  config.guest = GuestKind::kLinux;
  config.devices = {{.kind = DeviceKind::kBlock, .read_only = true},
                    {.kind = DeviceKind::kNet, .mac = {2, 0, 0, 0, 0, 7}}};
  return config;
}

TEST(VmConfigTest, ALinuxGuestsDevicesAreRead) {
  for (const size_t devices : {size_t{0}, size_t{2}, kMaxDevices}) {
    VmConfig written = LinuxSample();
    written.devices.resize(devices);
    const auto read = DecodeVmConfig(*EncodeVmConfig(written));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, written);
  }
}

TEST(VmConfigTest, DevicesThatCannotBeAreRefused) {
  VmConfig config = LinuxSample();
  config.devices.resize(kMaxDevices + 1);
  EXPECT_FALSE(EncodeVmConfig(config).ok());
  config = LinuxSample();
  config.guest = GuestKind::kPayload;
  EXPECT_FALSE(EncodeVmConfig(config).ok());
  config = LinuxSample();
  config.devices[0].kind = static_cast<DeviceKind>(7);
  EXPECT_EQ(ReasonOf(DecodeVmConfig(*EncodeVmConfig(config)).status()), "DEVICE_UNKNOWN");
}

TEST(VmConfigTest, OnlyADiskIsReadOnly) {
  VmConfig config = LinuxSample();
  EXPECT_TRUE(DecodeVmConfig(*EncodeVmConfig(config))->devices[0].read_only);
  config.devices[0].kind = DeviceKind::kNet;
  EXPECT_EQ(ReasonOf(DecodeVmConfig(*EncodeVmConfig(config)).status()), "STATE_MALFORMED");
}

TEST(VmConfigTest, TheFileCannotChangeAnyMore) {
  const auto fd = WriteVmConfig(Sample());
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_LT(pwrite(fd->borrow().raw(), "x", 1, 0), 0);
  EXPECT_LT(ftruncate(fd->borrow().raw(), 0), 0);
}

TEST(VmConfigTest, AFileThatCanStillChangeIsRefused) {
  const UniqueFd fd = Memfd(*EncodeVmConfig(Sample()));
  EXPECT_EQ(ReasonOf(ReadVmConfig(fd.borrow()).status()), "CONFIG_NOT_SEALED");
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  EXPECT_EQ(ReasonOf(ReadVmConfig(reader.borrow()).status()), "CONFIG_NOT_SEALED");
}

TEST(VmConfigTest, AnOversizedFileIsRefused) {
  const UniqueFd fd = Memfd(std::vector<std::byte>(REHOME_MAX_CONFIG + 1));
  ASSERT_EQ(fcntl(fd.borrow().raw(), F_ADD_SEALS,
                  F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
            0);
  EXPECT_EQ(ReasonOf(ReadVmConfig(fd.borrow()).status()), "CONFIG_TOO_LARGE");
}

TEST(VmConfigTest, TheLargestConfigurationFits) {
  VmConfig config = Sample();
  config.cpuid.assign(REHOME_MAX_VCPUS, std::vector<std::byte>(kMaxCpuidBytes));
  EXPECT_TRUE(EncodeVmConfig(config).ok());
}

TEST(VmConfigTest, EveryTruncationIsRefused) {
  const std::vector<std::byte> bytes = *EncodeVmConfig(Sample());
  std::set<std::string> reasons;
  for (size_t length = 0; length < bytes.size(); ++length) {
    reasons.insert(ReasonOf(DecodeVmConfig({bytes.begin(), bytes.begin() + length}).status()));
  }
  const std::vector<std::byte> more = *EncodeVmConfig(LinuxSample());
  for (size_t length = 0; length < more.size(); ++length) {
    reasons.insert(ReasonOf(DecodeVmConfig({more.begin(), more.begin() + length}).status()));
  }
  EXPECT_EQ(reasons, std::set<std::string>{"STATE_MALFORMED"});
}

TEST(VmConfigTest, EveryBitFlipIsRefusedOrHitsPadding) {
  for (VmConfig small : {Sample(), LinuxSample()}) {
    small.cpuid[1].resize(20);
    const std::vector<std::byte> bytes = *EncodeVmConfig(small);
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      std::vector<std::byte> flipped = bytes;
      flipped[bit / 8] ^= std::byte{1} << (bit % 8);
      const auto config = DecodeVmConfig(flipped);
      EXPECT_TRUE(!config.ok() || *config == small) << bit;
    }
  }
}

TEST(VmConfigTest, ANameThatIsTooLongIsRefused) {
  VmConfig config = Sample();
  config.vm_id.assign(REHOME_ID_SIZE, 'x');
  EXPECT_FALSE(EncodeVmConfig(config).ok());
}

}  // namespace
}  // namespace rehome
