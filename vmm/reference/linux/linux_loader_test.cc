// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/linux_loader.h"

#include <asm/bootparam.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kvmglue/status_reason.h"
#include "vmm/reference/linux/mp_table.h"
#include "vmm/reference/linux/sample_bzimage.h"

namespace rehome {
namespace {

constexpr uint64_t kRamBytes = 32 << 20;
constexpr uint64_t kGib = 1ull << 30;

LinuxBoot Sample() {
  return {.image = SampleBzImage(),
          .initramfs = std::vector<std::byte>(5000, std::byte{0x77}),
          .cmdline = "console=ttyS0 root=/dev/vda",
          .vcpu_count = 2};
}

class LinuxLoaderTest : public ::testing::Test {
 protected:
  absl::StatusOr<uint64_t> Load(const LinuxBoot& boot) {
    const MappedRange ranges[] = {{0, low_}, {4 * kGib, high_}};
    return LoadLinux(boot, ranges);
  }
  template <typename T>
  T At(uint64_t gpa) const {
    T value;
    std::memcpy(&value, low_.data() + gpa, sizeof(T));
    return value;
  }

  std::vector<std::byte> low_ = std::vector<std::byte>(kRamBytes);
  std::vector<std::byte> high_ = std::vector<std::byte>(1 << 20);
};

TEST_F(LinuxLoaderTest, EverythingIsWhereTheKernelIsToldThatItIs) {
  const LinuxBoot boot = Sample();
  const auto entry = Load(boot);
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(*entry, kSampleLoadAddress + 0x200);
  EXPECT_EQ(At<uint8_t>(*entry), 0x90);
  const auto params = At<boot_params>(0x7000);
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(low_.data()) + params.hdr.cmd_line_ptr),
            boot.cmdline);
  EXPECT_EQ(params.hdr.ramdisk_size, boot.initramfs.size());
  EXPECT_EQ(params.hdr.ramdisk_image % 4096, 0u);
  EXPECT_GE(params.hdr.ramdisk_image, kSampleLoadAddress + kSampleMemoryBytes);
  EXPECT_EQ(std::memcmp(low_.data() + params.hdr.ramdisk_image, boot.initramfs.data(),
                        boot.initramfs.size()),
            0);
  EXPECT_EQ(std::memcmp(low_.data() + kMpTableAddress, "_MP_", 4), 0);
}

TEST_F(LinuxLoaderTest, TheMemoryMapHasAllRamAndNoneOfTheBios) {
  ASSERT_TRUE(Load(Sample()).ok());
  const auto params = At<boot_params>(0x7000);
  uint64_t ram = 0, end = 0;
  for (int i = 0; i < params.e820_entries; ++i) {
    const boot_e820_entry entry = params.e820_table[i];
    EXPECT_GE(entry.addr, end) << "ordered, and none overlaps";
    end = entry.addr + entry.size;
    if (entry.type == 1) ram += entry.size;
  }
  EXPECT_EQ(end, 4 * kGib + high_.size());
  EXPECT_EQ(ram, 0x9fc00 + (kRamBytes - (1 << 20)) + high_.size());
}

// Walks the page tables as a CPU does.
TEST_F(LinuxLoaderTest, TheFirstFourGibAreMappedAsThemselves) {
  ASSERT_TRUE(Load(Sample()).ok());
  const uint64_t kAddresses[] = {0, 0x7000, kSampleLoadAddress, 0xfee00000, 4 * kGib - 4096};
  for (const uint64_t address : kAddresses) {
    uint64_t table = 0x9000;
    for (const int shift : {39, 30, 21}) {
      const auto entry = At<uint64_t>(table + (address >> shift & 511) * 8);
      ASSERT_EQ(entry & 1, 1u) << address;
      table = entry & ~0xfffull;
      ASSERT_EQ((entry & 0x80) != 0, shift == 21);
    }
    EXPECT_EQ(table & ~0x1fffffull, address & ~0x1fffffull);
  }
}

TEST_F(LinuxLoaderTest, WithoutInitramfsNoneIsNamed) {
  LinuxBoot boot = Sample();
  boot.initramfs.clear();
  ASSERT_TRUE(Load(boot).ok());
  const auto params = At<boot_params>(0x7000);
  EXPECT_EQ(params.hdr.ramdisk_image, 0u);
  EXPECT_EQ(params.hdr.ramdisk_size, 0u);
}

TEST_F(LinuxLoaderTest, WhatDoesNotFitIsRefused) {
  LinuxBoot boot = Sample();
  const uint64_t needed = kSampleLoadAddress + kSampleMemoryBytes;
  EXPECT_EQ(ReasonOf(CheckLinux(boot, needed)), "GUEST_MEMORY_TOO_SMALL");
  EXPECT_TRUE(CheckLinux(boot, needed + (1 << 20)).ok());
  boot.initramfs.resize(kRamBytes);
  EXPECT_EQ(ReasonOf(CheckLinux(boot, kRamBytes)), "GUEST_MEMORY_TOO_SMALL");
  boot = Sample();
  boot.cmdline.assign(2048, 'x');
  EXPECT_EQ(ReasonOf(CheckLinux(boot, kRamBytes)), "GUEST_CMDLINE_TOO_LONG");
  boot = Sample();
  boot.image.resize(100);
  EXPECT_EQ(ReasonOf(CheckLinux(boot, kRamBytes)), "GUEST_IMAGE_INVALID");
  boot = Sample();
  boot.image = SampleBzImage([](setup_header& h) { h.initrd_addr_max = 0x1000; });
  EXPECT_EQ(ReasonOf(CheckLinux(boot, kRamBytes)), "GUEST_MEMORY_TOO_SMALL");
}

TEST_F(LinuxLoaderTest, AFileThatIsNotThereIsNamed) {
  const auto missing = ReadGuestImage("/nonexistent/kernel");
  EXPECT_EQ(ReasonOf(missing.status()), "GUEST_IMAGE_UNREADABLE");
  EXPECT_NE(std::string(missing.status().message()).find("/nonexistent/kernel"), std::string::npos);
  EXPECT_EQ(ReasonOf(ReadGuestImage("/tmp").status()), "GUEST_IMAGE_UNREADABLE");
}

}  // namespace
}  // namespace rehome
