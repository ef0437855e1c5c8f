// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_VIRTIO_CHAIN_H_
#define REHOME_VMM_REFERENCE_VIRTIO_CHAIN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/reference/virtio/guest_memory.h"

namespace rehome::virtio {

// A range of guest memory that was found to be RAM.
struct Segment {
  uint64_t gpa = 0;
  uint32_t length = 0;
};

// One request: what the device reads, then what it writes. A copy of the guest's descriptors, all
// checked (queue.h), so that nothing the guest does later changes it.
struct Chain {
  uint16_t head = 0;
  std::vector<Segment> readable;
  std::vector<Segment> writable;

  uint64_t readable_bytes() const;
  uint64_t writable_bytes() const;
};

// A place in a chain's readable, or writable, bytes that goes forward. How the driver cut them into
// descriptors means nothing (2.7.4.1). Owns nothing; the segments outlive it.
class ChainCursor {
 public:
  explicit ChainCursor(std::span<const Segment> segments) : segments_(segments) {}

  // Copies and goes on. False, with some bytes copied and the place undefined, if there are fewer
  // bytes or memory refuses.
  bool Read(const GuestMemory& memory, std::span<std::byte> out);
  bool Write(GuestMemory& memory, std::span<const std::byte> in);

  // Goes on without copying; false if there are fewer bytes.
  bool Skip(uint64_t bytes);

 private:
  // The next piece of at most `limit` bytes, taken; empty at the end.
  Segment Take(uint64_t limit);

  std::span<const Segment> segments_;
  uint32_t offset_ = 0;  // in segments_[0]
};

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_CHAIN_H_
