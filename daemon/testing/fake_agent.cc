// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/fake_agent.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/testing/child_harness.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"

namespace rehome::testing_support {

FakeAgent FakeAgent::Connect(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  EXPECT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  EXPECT_EQ(
      connect(socket.borrow().raw(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
      0);
  return FakeAgent(std::move(socket));
}

FakeAgent::Received FakeAgent::Receive() {
  Received received;
  received.ended = true;
  if (!AwaitReadable(socket())) {
    ADD_FAILURE() << "nothing came";
    return received;
  }
  absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket(), REHOME_MAX_MESSAGE);
  if (!message.ok() || message->bytes.size() < sizeof(rehome_header)) return received;
  received.ended = false;
  std::memcpy(&received.header, message->bytes.data(), sizeof(received.header));
  received.payload.assign(message->bytes.begin() + sizeof(rehome_header), message->bytes.end());
  received.fds = std::move(message->fds);
  EXPECT_EQ(received.header.magic, REHOME_PROTOCOL_MAGIC);
  EXPECT_EQ(received.header.payload_size, received.payload.size());
  EXPECT_EQ(received.header.fd_count, received.fds.size());
  return received;
}

bool FakeAgent::AwaitEnd() {
  for (;;) {
    if (!AwaitReadable(socket())) return false;
    absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket(), REHOME_MAX_MESSAGE);
    if (!message.ok()) return true;
  }
}

bool FakeAgent::SendDatagram(const Bytes& datagram, const std::vector<BorrowedFd>& fds) {
  return SendMessage(socket(), datagram, fds).ok();
}

bool FakeAgent::Send(rehome_message type, const Bytes& payload, uint64_t seq) {
  return SendDatagram(Datagram(MakeHeader(type, false, seq, payload.size(), 0), payload));
}

bool FakeAgent::SendEvent(rehome_event_kind kind, const std::string& migration_id,
                          const std::string& text) {
  return Send(REHOME_MSG_EVENT, BytesOf(MakeEvent(kind, migration_id, text)));
}

bool FakeAgent::Reply(const Received& request, const Bytes& payload,
                      const std::vector<BorrowedFd>& fds) {
  return SendDatagram(Datagram(MakeHeader(static_cast<rehome_message>(request.header.type), true,
                                          request.header.seq, payload.size(), fds.size()),
                               payload),
                      fds);
}

bool FakeAgent::Reply(const Received& request, const DescribedVm& vm) {
  return Reply(request, vm.parts.Payload(), vm.Borrow());
}

bool FakeAgent::Refuse(const Received& request, rehome_refusal refusal, const std::string& text) {
  const Bytes payload = BytesOf(MakeRefusal(text));
  rehome_header header = MakeHeader(static_cast<rehome_message>(request.header.type), true,
                                    request.header.seq, payload.size(), 0);
  header.status = refusal;
  return SendDatagram(Datagram(header, payload));
}

uint32_t FakeAgent::Hello(const rehome_hello& hello) {
  if (!Send(REHOME_MSG_HELLO, BytesOf(hello), 100)) return UINT32_MAX;
  const Received reply = Receive();
  if (reply.ended) return UINT32_MAX;
  EXPECT_EQ(reply.header.type, REHOME_MSG_HELLO);
  EXPECT_EQ(reply.header.flags, REHOME_FLAG_REPLY);
  EXPECT_EQ(reply.header.seq, 100u);
  return reply.header.status;
}

uint32_t FakeAgent::Register(const rehome_register& vm) {
  if (!Send(REHOME_MSG_REGISTER, BytesOf(vm), 101)) return UINT32_MAX;
  const Received reply = Receive();
  if (reply.ended) return UINT32_MAX;
  EXPECT_EQ(reply.header.type, REHOME_MSG_REGISTER);
  EXPECT_EQ(reply.header.seq, 101u);
  return reply.header.status;
}

}  // namespace rehome::testing_support
