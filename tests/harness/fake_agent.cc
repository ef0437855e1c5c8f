// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/fake_agent.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"

namespace rehome::harness {
namespace {

constexpr uint64_t kMemoryBytes = 64u << 20;

template <size_t kSize>
void CopyText(const std::string& text, char (&field)[kSize]) {
  memcpy(field, text.data(), std::min(text.size(), kSize - 1));
}

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

}  // namespace

absl::StatusOr<FakeAgent> FakeAgent::Connect(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError("agent socket path too long");
  }
  memcpy(address.sun_path, socket_path.data(), socket_path.size());
  FakeAgent agent;
  agent.socket_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!agent.socket_) return absl::ErrnoToStatus(errno, "socket");
  if (connect(agent.socket_.borrow().raw(), reinterpret_cast<sockaddr*>(&address),
              sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, socket_path);
  }
  return agent;
}

absl::Status FakeAgent::SendRaw(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds) {
  return SendMessage(socket_.borrow(), bytes, fds);
}

absl::Status FakeAgent::Send(uint16_t type, uint32_t flags, uint64_t seq,
                             std::span<const std::byte> payload, std::span<const BorrowedFd> fds) {
  const rehome_header header = {.magic = REHOME_PROTOCOL_MAGIC,
                                .version = REHOME_PROTOCOL_VERSION,
                                .type = type,
                                .flags = flags,
                                .status = REHOME_REFUSED_NONE,
                                .seq = seq,
                                .payload_size = static_cast<uint32_t>(payload.size()),
                                .fd_count = static_cast<uint32_t>(fds.size())};
  std::vector<std::byte> bytes(sizeof(header) + payload.size());
  memcpy(bytes.data(), &header, sizeof(header));
  if (!payload.empty()) memcpy(bytes.data() + sizeof(header), payload.data(), payload.size());
  return SendRaw(bytes, fds);
}

absl::StatusOr<FakeAgent::Message> FakeAgent::Receive(std::chrono::milliseconds timeout) {
  pollfd poll_fd{.fd = socket_.borrow().raw(), .events = POLLIN, .revents = 0};
  if (poll(&poll_fd, 1, static_cast<int>(timeout.count())) != 1) {
    return absl::DeadlineExceededError("the daemon says nothing");
  }
  absl::StatusOr<ReceivedMessage> received = ReceiveMessage(socket_.borrow(), REHOME_MAX_MESSAGE);
  if (!received.ok()) return received.status();
  Message message = {.fds = std::move(received->fds)};
  if (received->bytes.size() < sizeof(message.header)) {
    return absl::InternalError("the daemon sent less than a header");
  }
  memcpy(&message.header, received->bytes.data(), sizeof(message.header));
  message.payload.assign(received->bytes.begin() + sizeof(message.header), received->bytes.end());
  return message;
}

absl::Status FakeAgent::Ask(uint16_t type, std::span<const std::byte> payload,
                            std::chrono::milliseconds timeout) {
  const uint64_t seq = next_seq_++;
  if (absl::Status status = Send(type, 0, seq, payload); !status.ok()) return status;
  const absl::StatusOr<Message> reply = Receive(timeout);
  if (!reply.ok()) return reply.status();
  if (reply->header.type != type || reply->header.seq != seq ||
      (reply->header.flags & REHOME_FLAG_REPLY) == 0) {
    return absl::InternalError(absl::StrCat("message ", reply->header.type, " is no answer"));
  }
  if (reply->header.status == REHOME_REFUSED_NONE) return absl::OkStatus();
  const auto* text = reinterpret_cast<const char*>(reply->payload.data());
  return absl::FailedPreconditionError(
      absl::StrCat("refused (", reply->header.status,
                   "): ", std::string(text, strnlen(text, reply->payload.size()))));
}

absl::Status FakeAgent::Register(const std::string& vm_id, std::chrono::milliseconds timeout) {
  rehome_hello hello = {.version_min = REHOME_PROTOCOL_VERSION,
                        .version_max = REHOME_PROTOCOL_VERSION,
                        .features = REHOME_FEATURES_ALL,
                        .role = REHOME_ROLE_OWNER,
                        .state_format_write = 1,
                        .state_format_read_min = 1,
                        .state_format_read_max = 1};
  CopyText("fake-vmm", hello.vmm_name);
  CopyText("1.0", hello.vmm_version);
  if (absl::Status status = Ask(REHOME_MSG_HELLO, BytesOf(hello), timeout); !status.ok()) {
    return status;
  }
  rehome_register vm = {.vm_type = 0, .vcpu_count = 1, .memory_bytes = kMemoryBytes};
  CopyText(vm_id, vm.vm_id);
  return Ask(REHOME_MSG_REGISTER, BytesOf(vm), timeout);
}

}  // namespace rehome::harness
