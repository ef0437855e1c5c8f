// SPDX-License-Identifier: Apache-2.0
//
// Guest memory as the devices see it: copies in and out of ranges of guest-physical addresses,
// never a pointer. A guest that runs changes its memory at any time, so whoever decides by a value
// copies it out once and decides by the copy.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_GUEST_MEMORY_H_
#define REHOME_VMM_REFERENCE_VIRTIO_GUEST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace rehome::virtio {

// Thread-safe. Which addresses are RAM does not change while the object lives, so a range that was
// found to be RAM stays RAM.
class GuestMemory {
 public:
  virtual ~GuestMemory() = default;

  // Whether all bytes of the range are RAM. An empty range is, if its address is or is the end of
  // RAM. A range that wraps around is not.
  virtual bool Contains(uint64_t gpa, uint64_t size_bytes) const = 0;

  // False, with nothing copied, if a byte of the range is not RAM. Each byte is read, or written,
  // once.
  virtual bool Read(uint64_t gpa, std::span<std::byte> out) const = 0;
  virtual bool Write(uint64_t gpa, std::span<const std::byte> in) = 0;

  // The ring indices, by which guest and device hand entries to each other: one access each, with
  // acquire, or release, order towards all other accesses. Nothing or false if `gpa` is odd or not
  // RAM.
  virtual std::optional<uint16_t> LoadIndex(uint64_t gpa) const = 0;
  virtual bool StoreIndex(uint64_t gpa, uint16_t value) = 0;
};

// RAM that this process has mapped.
class MappedGuestMemory final : public GuestMemory {
 public:
  struct Region {
    uint64_t gpa = 0;
    std::span<std::byte> memory;  // 2-byte aligned, as `gpa` is
  };

  // Regions that follow each other count as one range. REQUIRES: no two overlap, none wraps around;
  // the mappings outlive the object.
  explicit MappedGuestMemory(std::vector<Region> regions);

  bool Contains(uint64_t gpa, uint64_t size_bytes) const override;
  bool Read(uint64_t gpa, std::span<std::byte> out) const override;
  bool Write(uint64_t gpa, std::span<const std::byte> in) override;
  std::optional<uint16_t> LoadIndex(uint64_t gpa) const override;
  bool StoreIndex(uint64_t gpa, uint16_t value) override;

 private:
  // What of [gpa, gpa + size) the region that has `gpa` holds, from there on; empty if none has.
  std::span<std::byte> Piece(uint64_t gpa, uint64_t size_bytes) const;

  std::vector<Region> regions_;  // by address
};

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_GUEST_MEMORY_H_
