// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/bzimage.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kvmglue/status_reason.h"
#include "vmm/reference/linux/sample_bzimage.h"

namespace rehome {
namespace {

absl::StatusOr<BzImage> Parse(const std::function<void(setup_header&)>& change,
                              std::vector<std::byte>& file) {
  file = SampleBzImage(change);
  return ParseBzImage(file);
}

TEST(BzImageTest, ASoundImageSaysWhereItGoes) {
  const std::vector<std::byte> file = SampleBzImage();
  const auto image = ParseBzImage(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->load_address, kSampleLoadAddress);
  EXPECT_EQ(image->memory_bytes, kSampleMemoryBytes);
  EXPECT_EQ(image->kernel.size(), kSampleKernelBytes);
  EXPECT_EQ(image->kernel.data(), file.data() + file.size() - kSampleKernelBytes);
  EXPECT_EQ(image->header.cmdline_size, 2047u);
}

TEST(BzImageTest, WhatCannotBeBootedIsRefusedForItsReason) {
  const struct {
    std::function<void(setup_header&)> change;
    const char* named;
  } kCases[] = {
      {[](setup_header& h) { h.boot_flag = 0; }, "not a bzImage"},
      {[](setup_header& h) { h.header = 0; }, "not a bzImage"},
      {[](setup_header& h) { h.version = 0x020b; }, "boot protocol 2.11"},
      {[](setup_header& h) { h.loadflags = 0; }, "zImage"},
      {[](setup_header& h) { h.xloadflags = 0; }, "64-bit"},
      {[](setup_header& h) { h.syssize += 1; }, "truncated"},
      {[](setup_header& h) { h.syssize = 0; }, "truncated"},
      {[](setup_header& h) { h.syssize = 0xffffffff; }, "truncated"},
      {[](setup_header& h) { h.setup_sects = 255; }, "truncated"},
      {[](setup_header& h) { h.pref_address = 0x1000; }, "load address"},
      {[](setup_header& h) { h.pref_address = ~0ull; }, "load address"},
      {[](setup_header& h) { h.pref_address = kSampleLoadAddress + 1; }, "load address"},
      {[](setup_header& h) { h.init_size = kSampleKernelBytes - 1; }, "less memory"},
  };
  for (const auto& test : kCases) {
    std::vector<std::byte> file;
    const auto image = Parse(test.change, file);
    EXPECT_EQ(ReasonOf(image.status()), "GUEST_IMAGE_INVALID") << test.named;
    EXPECT_NE(std::string(image.status().message()).find(test.named), std::string::npos)
        << image.status();
  }
}

TEST(BzImageTest, EveryTruncationIsRefused) {
  const std::vector<std::byte> file = SampleBzImage();
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(ParseBzImage(std::span(file).first(size)).ok()) << size;
  }
}

TEST(BzImageTest, ASignatureBehindTheKernelDoesNoHarm) {
  std::vector<std::byte> file = SampleBzImage();
  file.resize(file.size() + 100);
  EXPECT_TRUE(ParseBzImage(file).ok());
}

// The jump over the header says where it ends; a header of an older kernel ends earlier, and what
// follows is not its.
TEST(BzImageTest, WhatLiesBehindAShorterHeaderIsNotTakenForIt) {
  std::vector<std::byte> file;
  const auto image = Parse(
      [](setup_header& h) {
        h.jump = static_cast<uint16_t>(0xeb | (offsetof(setup_header, init_size) + 4 - 0x11) << 8);
        h.handover_offset = 0x1234;
      },
      file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->header.handover_offset, 0u);
}

}  // namespace
}  // namespace rehome
