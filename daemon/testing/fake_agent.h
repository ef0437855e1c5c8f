// SPDX-License-Identifier: Apache-2.0
//
// The VMM's end of an agent connection for tests of the daemon's: it says what it is told, right or
// wrong, from the structs of protocol.h and not through the daemon's codec.
#ifndef REHOME_DAEMON_TESTING_FAKE_AGENT_H_
#define REHOME_DAEMON_TESTING_FAKE_AGENT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daemon/testing/wire_messages.h"
#include "kvmglue/fd.h"

namespace rehome::testing_support {

class FakeAgent {
 public:
  FakeAgent() = default;
  explicit FakeAgent(UniqueFd socket) : socket_(std::move(socket)) {}
  // Connects to the socket file at `path`; fails the test if it cannot.
  static FakeAgent Connect(const std::string& path);

  struct Received {
    bool ended = false;  // the daemon closed the connection, or nothing came in time
    rehome_header header = {};
    Bytes payload;
    std::vector<UniqueFd> fds;
    template <typename T>
    T As() const;  // the front of the payload
  };
  // Waits for the next message.
  Received Receive();
  // True if the daemon closes the connection; messages before that are dropped.
  bool AwaitEnd();

  // These return false if the daemon does not take it (it has closed the connection).
  bool SendDatagram(const Bytes& datagram, const std::vector<BorrowedFd>& fds = {});
  bool Send(rehome_message type, const Bytes& payload, uint64_t seq = 1);
  bool SendEvent(rehome_event_kind kind, const std::string& migration_id,
                 const std::string& text = "");
  bool Reply(const Received& request, const Bytes& payload = {},
             const std::vector<BorrowedFd>& fds = {});
  bool Reply(const Received& request, const DescribedVm& vm);
  bool Refuse(const Received& request, rehome_refusal refusal, const std::string& text);

  // HELLO, and its answer's status; UINT32_MAX if the connection ended instead.
  uint32_t Hello(rehome_role role) { return Hello(MakeHello(role)); }
  uint32_t Hello(const rehome_hello& hello);
  uint32_t Register(const rehome_register& vm);

  BorrowedFd socket() const { return socket_.borrow(); }
  void Close() { socket_.Reset(); }

 private:
  UniqueFd socket_;
};

template <typename T>
T FakeAgent::Received::As() const {
  T value = {};
  if (payload.size() >= sizeof(value)) std::memcpy(&value, payload.data(), sizeof(value));
  return value;
}

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_FAKE_AGENT_H_
