// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_GUEST_MEMORY_READER_H_
#define REHOME_VMM_REFERENCE_GUEST_MEMORY_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace rehome {

// Read access to a guest's RAM by offset (guest_abi.h: offset == gpa below the hole). Reading does
// not stop the guest: whoever wants one instant stops its vCPUs first.
class GuestMemoryReader {
 public:
  virtual ~GuestMemoryReader() = default;
  // OUT_OF_RANGE / GUEST_RAM_RANGE beyond the end of RAM; `out` is then undefined.
  virtual absl::Status Read(uint64_t ram_offset, std::span<std::byte> out) const = 0;
};

// RAM that consists of files mapped somewhere, in order. Borrows the mappings.
class MappedGuestMemory : public GuestMemoryReader {
 public:
  explicit MappedGuestMemory(std::vector<std::span<const std::byte>> files);
  absl::Status Read(uint64_t ram_offset, std::span<std::byte> out) const override;

 private:
  std::vector<std::span<const std::byte>> files_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_MEMORY_READER_H_
