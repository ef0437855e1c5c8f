// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/guest_memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

namespace rehome::virtio {

MappedGuestMemory::MappedGuestMemory(std::vector<Region> regions) : regions_(std::move(regions)) {
  std::sort(regions_.begin(), regions_.end(),
            [](const Region& a, const Region& b) { return a.gpa < b.gpa; });
}

std::span<std::byte> MappedGuestMemory::Piece(uint64_t gpa, uint64_t size_bytes) const {
  for (const Region& region : regions_) {
    if (gpa < region.gpa || gpa - region.gpa >= region.memory.size()) continue;
    const uint64_t offset = gpa - region.gpa;
    return region.memory.subspan(offset, std::min(size_bytes, region.memory.size() - offset));
  }
  return {};
}

bool MappedGuestMemory::Contains(uint64_t gpa, uint64_t size_bytes) const {
  if (size_bytes > UINT64_MAX - gpa) return false;
  if (size_bytes == 0) return !Piece(gpa, 1).empty() || (gpa > 0 && !Piece(gpa - 1, 1).empty());
  while (size_bytes > 0) {
    const size_t piece = Piece(gpa, size_bytes).size();
    if (piece == 0) return false;
    gpa += piece;
    size_bytes -= piece;
  }
  return true;
}

bool MappedGuestMemory::Read(uint64_t gpa, std::span<std::byte> out) const {
  if (!Contains(gpa, out.size())) return false;
  while (!out.empty()) {
    const std::span<const std::byte> piece = Piece(gpa, out.size());
    std::memcpy(out.data(), piece.data(), piece.size());
    gpa += piece.size();
    out = out.subspan(piece.size());
  }
  return true;
}

bool MappedGuestMemory::Write(uint64_t gpa, std::span<const std::byte> in) {
  if (!Contains(gpa, in.size())) return false;
  while (!in.empty()) {
    const std::span<std::byte> piece = Piece(gpa, in.size());
    std::memcpy(piece.data(), in.data(), piece.size());
    gpa += piece.size();
    in = in.subspan(piece.size());
  }
  return true;
}

std::optional<uint16_t> MappedGuestMemory::LoadIndex(uint64_t gpa) const {
  const std::span<std::byte> piece = Piece(gpa, sizeof(uint16_t));
  if (gpa % sizeof(uint16_t) != 0 || piece.size() != sizeof(uint16_t)) return std::nullopt;
  const std::atomic_ref<uint16_t> index(*reinterpret_cast<uint16_t*>(piece.data()));
  return index.load(std::memory_order_acquire);
}

bool MappedGuestMemory::StoreIndex(uint64_t gpa, uint16_t value) {
  const std::span<std::byte> piece = Piece(gpa, sizeof(uint16_t));
  if (gpa % sizeof(uint16_t) != 0 || piece.size() != sizeof(uint16_t)) return false;
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(piece.data()))
      .store(value, std::memory_order_release);
  return true;
}

}  // namespace rehome::virtio
