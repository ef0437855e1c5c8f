// SPDX-License-Identifier: Apache-2.0
//
// Puts a Linux kernel into a guest's memory and its boot processor at the kernel's 64-bit entry
// (Documentation/arch/x86/boot.rst, "64-bit boot protocol").
//
// Guest-physical addresses:
//   0x1000    GDT                      0x7000    boot_params ("zero page")
//   0x9000    page tables, 6 pages: the first 4 GiB, as themselves
//   0x20000   command line             0x9fc00   end of conventional memory
//   0xf0000   MP table                 0x1000000 or where the image says: the kernel
//   end of RAM below 3 GiB, or the kernel's limit: the initramfs
#ifndef REHOME_VMM_REFERENCE_LINUX_LINUX_LOADER_H_
#define REHOME_VMM_REFERENCE_LINUX_LINUX_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/vcpu.h"

namespace rehome {

// A piece of the guest's RAM as it is mapped here.
struct MappedRange {
  uint64_t gpa = 0;
  std::span<std::byte> bytes;
};

// What is booted.
struct LinuxBoot {
  std::vector<std::byte> image;      // a bzImage
  std::vector<std::byte> initramfs;  // may be empty
  std::string cmdline;
  uint32_t vcpu_count = 1;
};

// The file's bytes, at most 1 GiB. INVALID_ARGUMENT / GUEST_IMAGE_UNREADABLE naming it.
absl::StatusOr<std::vector<std::byte>> ReadGuestImage(const std::string& path);

// Whether `boot` can be loaded into `ram_bytes` of RAM below the hole, before there is any.
// GUEST_IMAGE_INVALID (bzimage.h), INVALID_ARGUMENT / GUEST_CMDLINE_TOO_LONG,
// GUEST_MEMORY_TOO_SMALL.
absl::Status CheckLinux(const LinuxBoot& boot, uint64_t ram_bytes);

// Writes all of it; returns the address of the first instruction. Errors of CheckLinux().
// REQUIRES: `ram` is zero, ordered, and begins at 0; 1 <= vcpu_count <= 64.
absl::StatusOr<uint64_t> LoadLinux(const LinuxBoot& boot, std::span<const MappedRange> ram);

// Sets the boot processor to start at `entry`. The other vCPUs stay as they were made: they wait
// for INIT and SIPI. Errors of SaveState() and RestoreState().
absl::Status StartLinuxVcpu(uint64_t entry, Vcpu& boot_processor);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_LINUX_LINUX_LOADER_H_
