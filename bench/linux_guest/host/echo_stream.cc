// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/echo_stream.h"

#include <algorithm>
#include <cstring>

#include "bench/linux_guest/pattern.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {

std::span<const std::byte> EchoFrames::Next() {
  const uint64_t number = seed_ ^ Mix(sequence_);
  // Mostly short ones, now and then of any length: boundaries fall everywhere.
  const uint32_t longest = Mix(number) % 4 == 0 ? kMaxFramePayload : 4096;
  const uint32_t length = 1 + static_cast<uint32_t>(Mix(number + 1) % longest);
  frame_.resize(sizeof(FrameHeader) + length);
  const std::span<std::byte> payload = std::span(frame_).subspan(sizeof(FrameHeader));
  FillPattern(number, payload);
  const FrameHeader header = {
      .magic = kFrameMagic, .length = length, .sequence = sequence_, .checksum = Checksum(payload)};
  memcpy(frame_.data(), &header, sizeof(header));
  ++sequence_;
  return frame_;
}

bool EchoComparer::Accept(std::span<const std::byte> bytes) {
  if (!fault_.empty()) return false;
  while (!bytes.empty()) {
    if (left_.empty()) left_ = frames_.Next();
    const size_t part = std::min(left_.size(), bytes.size());
    const auto [found, wanted] =
        std::mismatch(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(part), left_.begin());
    const size_t same = static_cast<size_t>(wanted - left_.begin());
    compared_ += same;
    if (same != part) {
      fault_ = "byte " + std::to_string(compared_) + " of the stream is not the one that was sent";
      return false;
    }
    left_ = left_.subspan(part);
    bytes = bytes.subspan(part);
  }
  return true;
}

}  // namespace rehome::linux_guest
