// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/bzimage.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr size_t kHeaderAt = 0x1f1;
// The header ends where the jump over it goes: the byte at 0x201 counts from 0x202 on.
constexpr size_t kJumpOffsetAt = 0x201;
constexpr size_t kJumpFrom = 0x202;
constexpr size_t kSector = 512;
constexpr uint8_t kDefaultSetupSectors = 4;
constexpr size_t kParagraph = 16;  // unit of setup_header::syssize

constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr uint16_t kOldestProtocol = 0x020c;   // the first with xloadflags
constexpr uint64_t kFirstMib = 1 << 20;
// Beyond it a 32-bit field of the header does not reach; no kernel is near.
constexpr uint64_t kMaxLoadAddress = 1ull << 32;

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "GUEST_IMAGE_INVALID", what);
}

absl::Status CheckProtocol(const setup_header& header) {
  if (header.boot_flag != kBootFlag || header.header != kHeaderMagic) {
    return Invalid("not a bzImage of an x86 Linux");
  }
  if (header.version < kOldestProtocol) {
    return Invalid(absl::StrCat("boot protocol ", header.version >> 8, ".", header.version & 0xff,
                                ", at least 2.12 is needed"));
  }
  if ((header.loadflags & LOADED_HIGH) == 0) return Invalid("a zImage, which is loaded low");
  if ((header.xloadflags & XLF_KERNEL_64) == 0) return Invalid("it has no 64-bit entry");
  return absl::OkStatus();
}

absl::Status CheckPlace(const setup_header& header, size_t kernel_bytes) {
  if (header.pref_address < kFirstMib || header.pref_address >= kMaxLoadAddress ||
      header.pref_address % kParagraph != 0) {
    return Invalid("its load address makes no sense");
  }
  if (header.init_size < kernel_bytes) return Invalid("it says to need less memory than it has");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BzImage> ParseBzImage(std::span<const std::byte> file) {
  constexpr size_t kFixedPart = offsetof(setup_header, jump) + sizeof(setup_header::jump);
  static_assert(kHeaderAt + kFixedPart == kJumpFrom);
  if (file.size() <= kJumpFrom) return Invalid("shorter than its header");
  BzImage image;
  const auto after_jump = std::to_integer<size_t>(file[kJumpOffsetAt]);
  const size_t header_bytes =
      std::min({sizeof(setup_header), kFixedPart + after_jump, file.size() - kHeaderAt});
  std::memcpy(&image.header, file.data() + kHeaderAt, header_bytes);
  absl::Status status = CheckProtocol(image.header);
  if (!status.ok()) return status;

  const uint8_t sectors =
      image.header.setup_sects == 0 ? kDefaultSetupSectors : image.header.setup_sects;
  const size_t start = (size_t{sectors} + 1) * kSector;
  const size_t kernel_bytes = size_t{image.header.syssize} * kParagraph;
  if (kernel_bytes <= kEntry64Offset || start > file.size() || kernel_bytes > file.size() - start) {
    return Invalid(absl::StrCat("truncated: the header asks for ", start + kernel_bytes,
                                " bytes, the file has ", file.size()));
  }
  image.kernel = file.subspan(start);  // a signature may follow the kernel; it does no harm
  status = CheckPlace(image.header, image.kernel.size());
  if (!status.ok()) return status;
  image.load_address = image.header.pref_address;
  image.memory_bytes = image.header.init_size;
  return image;
}

}  // namespace rehome
