// SPDX-License-Identifier: Apache-2.0
//
// What the guest's /init and the program that watches it from the host agree on. Both are built
// from one tree for x86-64, so that structures go over the wire as they lie in memory.
// docs/linux-workload.md tells who does what.
#ifndef REHOME_BENCH_LINUX_GUEST_WORKLOAD_ABI_H_
#define REHOME_BENCH_LINUX_GUEST_WORKLOAD_ABI_H_

#include <cstddef>
#include <cstdint>

namespace rehome::linux_guest {

// TCP ports of the guest.
inline constexpr uint16_t kEchoPort = 7001;
inline constexpr uint16_t kControlPort = 7002;

// A frame of the echo stream: this header, then `length` bytes. The sender numbers the frames of a
// connection from 0. The guest sends each frame back as it came, header included.
struct FrameHeader {
  uint32_t magic = 0;
  uint32_t length = 0;  // of the payload, 1 to kMaxFramePayload
  uint64_t sequence = 0;
  uint64_t checksum = 0;  // Checksum() of the payload
};
static_assert(sizeof(FrameHeader) == 24);

inline constexpr uint32_t kFrameMagic = 0x6d726652;  // "Rfrm"
inline constexpr uint32_t kMaxFramePayload = 64 * 1024;

// A request on the control connection is a word and a line end, the answer one line:
//   account   key=value of everything that the guest counts (guest_account.h)
//   time      real=NANOSECONDS mono=NANOSECONDS
//   mark      the longest gap of the monotonic clock starts anew; ok
//   stop      disk writer and chains come to rest after what they are at; answers then: ok
inline constexpr size_t kMaxControlLine = 64 * 1024;

// Lines on the console, all with the prefix so that what a kernel prints is told apart:
//   rehome: ready RUN                      everything runs; RUN is this boot's number, 16 hex
//   digits rehome: tick N mono NANOSECONDS sum S  each second, N from 1; S: Checksum() of what is
//   before
//                                          " sum", 16 hex digits
//   rehome: pong TEXT                      somebody typed "ping TEXT"
//   rehome: failed TEXT                    the guest cannot do its work
inline constexpr char kConsolePrefix[] = "rehome: ";

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_WORKLOAD_ABI_H_
