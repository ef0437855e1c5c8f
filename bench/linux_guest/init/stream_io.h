// SPDX-License-Identifier: Apache-2.0
//
// Whole buffers over sockets, and a listener that gives each connection a thread of its own.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_STREAM_IO_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_STREAM_IO_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "bench/linux_guest/init/counters.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {

// A connected socket; closed with the object.
class Connection {
 public:
  enum class Result { kWhole, kEnd, kError };  // kError: errno says which, or the end came too soon

  explicit Connection(UniqueFd socket) : socket_(std::move(socket)) {}

  // Fills `out`. kEnd if the peer ended the stream before its first byte.
  Result Read(std::span<std::byte> out);
  Result Write(std::span<const std::byte> bytes);
  // Up to a line end, which is taken off; kError if it is longer than `longest`.
  Result ReadLine(std::string& line, size_t longest);
  Result WriteLine(const std::string& line);

 private:
  UniqueFd socket_;
};

// Listens on a TCP port of every address; `serve` runs in a new thread for each connection. Returns
// once it listens; "" or what went wrong.
std::string ServePort(uint16_t port, Complaints& faults, std::function<void(Connection&)> serve);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_STREAM_IO_H_
