// SPDX-License-Identifier: Apache-2.0
//
// A VMM that exists only on the wire: says HELLO, registers a VM, and from then on nothing unless
// it is told to. Written against vmm/agent/protocol.h and not against the agent library, so that it
// can also do what the library never would.
#ifndef REHOME_TESTS_HARNESS_FAKE_AGENT_H_
#define REHOME_TESTS_HARNESS_FAKE_AGENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/agent/protocol.h"

namespace rehome::harness {

// Not thread-safe. The connection ends with the object.
class FakeAgent {
 public:
  struct Message {
    rehome_header header = {};
    std::vector<std::byte> payload;
    std::vector<UniqueFd> fds;
  };

  // connect(2); nothing is sent.
  static absl::StatusOr<FakeAgent> Connect(const std::string& socket_path);

  // HELLO as an owner, then REGISTER of a VM of type default with one vCPU and 64 MiB. Errors name
  // the refusal.
  absl::Status Register(const std::string& vm_id, std::chrono::milliseconds timeout);

  // One datagram with a header made for `payload`. Errors of sendmsg(2).
  absl::Status Send(uint16_t type, uint32_t flags, uint64_t seq, std::span<const std::byte> payload,
                    std::span<const BorrowedFd> fds = {});
  // Bytes as they are, for what is no message.
  absl::Status SendRaw(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds = {});
  // The next message. DEADLINE_EXCEEDED; UNAVAILABLE once the daemon has closed the connection.
  absl::StatusOr<Message> Receive(std::chrono::milliseconds timeout);

  BorrowedFd socket() const { return socket_.borrow(); }

 private:
  absl::Status Ask(uint16_t type, std::span<const std::byte> payload,
                   std::chrono::milliseconds timeout);

  UniqueFd socket_;
  uint64_t next_seq_ = 1;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_FAKE_AGENT_H_
