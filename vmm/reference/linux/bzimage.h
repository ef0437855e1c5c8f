// SPDX-License-Identifier: Apache-2.0
//
// The header of a Linux kernel image (Documentation/arch/x86/boot.rst of the kernel).
#ifndef REHOME_VMM_REFERENCE_LINUX_BZIMAGE_H_
#define REHOME_VMM_REFERENCE_LINUX_BZIMAGE_H_

#include <asm/bootparam.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace rehome {

// What a boot loader needs of a bzImage.
struct BzImage {
  setup_header header = {};           // as the image has it; what a shorter one lacks is 0
  std::span<const std::byte> kernel;  // the part that is loaded; inside the file
  uint64_t load_address = 0;          // where the kernel wants to be (pref_address)
  uint64_t memory_bytes = 0;          // from there on until it has unpacked itself (init_size)
};

// Where the 64-bit entry is from the load address on.
inline constexpr uint64_t kEntry64Offset = 0x200;

// Checks the file's header; trusts none of its numbers. INVALID_ARGUMENT / GUEST_IMAGE_INVALID
// naming what is missing: no bzImage, truncated, a boot protocol before 2.12, no 64-bit entry, a
// load address or size that makes no sense. `file` must outlive what is returned.
absl::StatusOr<BzImage> ParseBzImage(std::span<const std::byte> file);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_LINUX_BZIMAGE_H_
