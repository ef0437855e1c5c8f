// SPDX-License-Identifier: Apache-2.0
//
// The bytes of the echo stream, and whether what came back is the same.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_ECHO_STREAM_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_ECHO_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rehome::linux_guest {

// Makes the frames of a stream one after the other, of lengths and contents that `seed` decides.
class EchoFrames {
 public:
  explicit EchoFrames(uint64_t seed) : seed_(seed) {}

  // The next frame, header and payload; valid until the next call.
  std::span<const std::byte> Next();
  uint64_t made() const { return sequence_; }

 private:
  const uint64_t seed_;
  uint64_t sequence_ = 0;
  std::vector<std::byte> frame_;
};

// Holds what comes back against what was sent, byte for byte. Not thread-safe.
class EchoComparer {
 public:
  explicit EchoComparer(uint64_t seed) : frames_(seed) {}

  // False once a byte is not the one that was sent; nothing is compared after that.
  bool Accept(std::span<const std::byte> bytes);

  uint64_t compared() const { return compared_; }  // bytes that were right
  const std::string& fault() const { return fault_; }

 private:
  EchoFrames frames_;
  std::span<const std::byte> left_;  // of the frame that is due
  uint64_t compared_ = 0;
  std::string fault_;
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_ECHO_STREAM_H_
