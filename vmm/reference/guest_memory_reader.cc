// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_memory_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {

MappedGuestMemory::MappedGuestMemory(std::vector<std::span<const std::byte>> files)
    : files_(std::move(files)) {}

absl::Status MappedGuestMemory::Read(uint64_t ram_offset, std::span<std::byte> out) const {
  uint64_t offset = ram_offset;
  for (const std::span<const std::byte>& file : files_) {
    if (out.empty()) return absl::OkStatus();
    if (offset >= file.size()) {
      offset -= file.size();
      continue;
    }
    const size_t count = std::min<uint64_t>(out.size(), file.size() - offset);
    std::memcpy(out.data(), file.data() + offset, count);
    out = out.subspan(count);
    offset = 0;
  }
  if (out.empty()) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kOutOfRange, "GUEST_RAM_RANGE",
                    absl::StrCat("guest RAM offset ", ram_offset, " is beyond its end"));
}

}  // namespace rehome
