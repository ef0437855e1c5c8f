// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/chain.h"

#include <algorithm>

namespace rehome::virtio {
namespace {

uint64_t Sum(std::span<const Segment> segments) {
  uint64_t bytes = 0;
  for (const Segment& segment : segments) bytes += segment.length;
  return bytes;
}

}  // namespace

uint64_t Chain::readable_bytes() const { return Sum(readable); }
uint64_t Chain::writable_bytes() const { return Sum(writable); }

Segment ChainCursor::Take(uint64_t limit) {
  while (!segments_.empty() && offset_ == segments_[0].length) {
    segments_ = segments_.subspan(1);
    offset_ = 0;
  }
  if (segments_.empty()) return {};
  const Segment& segment = segments_[0];
  const Segment taken = {
      .gpa = segment.gpa + offset_,
      .length = static_cast<uint32_t>(std::min<uint64_t>(limit, segment.length - offset_))};
  offset_ += taken.length;
  return taken;
}

bool ChainCursor::Read(const GuestMemory& memory, std::span<std::byte> out) {
  while (!out.empty()) {
    const Segment piece = Take(out.size());
    if (piece.length == 0 || !memory.Read(piece.gpa, out.first(piece.length))) return false;
    out = out.subspan(piece.length);
  }
  return true;
}

bool ChainCursor::Write(GuestMemory& memory, std::span<const std::byte> in) {
  while (!in.empty()) {
    const Segment piece = Take(in.size());
    if (piece.length == 0 || !memory.Write(piece.gpa, in.first(piece.length))) return false;
    in = in.subspan(piece.length);
  }
  return true;
}

bool ChainCursor::Skip(uint64_t bytes) {
  while (bytes > 0) {
    const Segment piece = Take(bytes);
    if (piece.length == 0) return false;
    bytes -= piece.length;
  }
  return true;
}

}  // namespace rehome::virtio
