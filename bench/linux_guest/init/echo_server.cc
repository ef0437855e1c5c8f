// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/echo_server.h"

#include <cstring>
#include <string>
#include <vector>

#include "bench/linux_guest/pattern.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

std::string HeaderFault(const FrameHeader& header, uint64_t sequence) {
  if (header.magic != kFrameMagic) return "no frame where one should begin";
  if (header.length == 0 || header.length > kMaxFramePayload) return "a frame's length is wrong";
  if (header.sequence != sequence) {
    return "frame " + std::to_string(header.sequence) + " instead of " + std::to_string(sequence);
  }
  return "";
}

}  // namespace

void ServeEcho(Connection& connection, Counters& counters) {
  using Result = Connection::Result;
  ++counters.echo_streams;
  std::vector<std::byte> frame(sizeof(FrameHeader) + kMaxFramePayload);
  for (uint64_t sequence = 0;; ++sequence) {
    const Result begin = connection.Read(std::span(frame).first(sizeof(FrameHeader)));
    if (begin == Result::kEnd) {
      ++counters.echo_ended;
      return;
    }
    if (begin != Result::kWhole) return counters.echo_faults.Add(WithErrno("echo header"));
    FrameHeader header;
    memcpy(&header, frame.data(), sizeof(header));
    if (const std::string fault = HeaderFault(header, sequence); !fault.empty()) {
      return counters.echo_faults.Add(fault);
    }
    const std::span<std::byte> payload = std::span(frame).subspan(sizeof(header), header.length);
    if (connection.Read(payload) != Result::kWhole) {
      return counters.echo_faults.Add(WithErrno("echo payload"));
    }
    if (Checksum(payload) != header.checksum) {
      return counters.echo_faults.Add("frame " + std::to_string(sequence) + " is damaged");
    }
    if (connection.Write(std::span(frame).first(sizeof(header) + header.length)) !=
        Result::kWhole) {
      return counters.echo_faults.Add(WithErrno("echo answer"));
    }
    ++counters.echo_frames;
    counters.echo_bytes += sizeof(header) + header.length;
  }
}

}  // namespace rehome::linux_guest
