// SPDX-License-Identifier: Apache-2.0
//
// For tests: a file that has what a boot loader looks at, and a kernel that does nothing.
#ifndef REHOME_VMM_REFERENCE_LINUX_SAMPLE_BZIMAGE_H_
#define REHOME_VMM_REFERENCE_LINUX_SAMPLE_BZIMAGE_H_

#include <asm/bootparam.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace rehome {

inline constexpr uint64_t kSampleLoadAddress = 0x1000000;
inline constexpr uint32_t kSampleMemoryBytes = 0x200000;
inline constexpr uint32_t kSampleKernelBytes = 0x1000;

// `change` spoils the header.
inline std::vector<std::byte> SampleBzImage(const std::function<void(setup_header&)>& change =
                                                [](setup_header&) {}) {
  constexpr size_t kHeaderAt = 0x1f1;
  constexpr uint8_t kSetupSectors = 1;
  setup_header header = {};
  header.setup_sects = kSetupSectors;
  header.syssize = kSampleKernelBytes / 16;
  header.boot_flag = 0xaa55;
  header.jump = static_cast<uint16_t>(0xeb | (sizeof(setup_header) - 0x11) << 8);
  header.header = 0x53726448;
  header.version = 0x020f;
  header.loadflags = LOADED_HIGH;
  header.xloadflags = XLF_KERNEL_64;
  header.cmdline_size = 2047;
  header.initrd_addr_max = 0x7fffffff;
  header.pref_address = kSampleLoadAddress;
  header.init_size = kSampleMemoryBytes;
  change(header);
  std::vector<std::byte> file((kSetupSectors + 1) * 512 + kSampleKernelBytes, std::byte{0x90});
  std::memcpy(file.data() + kHeaderAt, &header, sizeof(header));
  return file;
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_LINUX_SAMPLE_BZIMAGE_H_
