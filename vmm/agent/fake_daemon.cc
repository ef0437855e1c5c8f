// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/fake_daemon.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>

namespace rehome {
namespace {

template <typename T>
std::span<const uint8_t> BytesOf(const T& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

template <typename T>
T PayloadAs(const rehome_packet& packet) {
  T value;
  memcpy(&value, packet.payload, sizeof(value));
  return value;
}

bool WaitReadable(int fd) {
  pollfd poller = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&poller, 1, kFakeDaemonTimeoutMs) == 1;
}

rehome_arm MakeArm(const std::string& migration_id, uint64_t layout_digest) {
  rehome_arm arm = {};
  rehome_copy_text(arm.migration_id, sizeof(arm.migration_id), migration_id.c_str());
  arm.layout_digest = layout_digest;
  return arm;
}

}  // namespace

FakeLink::FakeLink(int socket) : socket_(socket), packet_(std::make_unique<rehome_packet>()) {
  packet_->header.fd_count = 0;
}

FakeLink::FakeLink(FakeLink&& other) noexcept { *this = std::move(other); }

FakeLink& FakeLink::operator=(FakeLink&& other) noexcept {
  Close();
  socket_ = std::exchange(other.socket_, -1);
  seq_ = other.seq_;
  features_ = other.features_;
  described_format_ = other.described_format_;
  packet_ = std::move(other.packet_);
  events_ = std::move(other.events_);
  registrations_ = std::move(other.registrations_);
  return *this;
}

FakeLink::~FakeLink() { Close(); }

void FakeLink::Close() {
  if (packet_ != nullptr) rehome_packet_close_fds(packet_.get());
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

bool FakeLink::Receive() {
  if (socket_ < 0) return false;
  rehome_packet_close_fds(packet_.get());
  if (!WaitReadable(socket_)) return false;
  return rehome_wire_receive(socket_, REHOME_END_DAEMON, packet_.get()) == 0;
}

void FakeLink::KeepRequest() {
  if (packet_->header.type == REHOME_MSG_EVENT) {
    events_.push_back(PayloadAs<rehome_event>(*packet_));
    return;
  }
  if (packet_->header.type != REHOME_MSG_REGISTER) return;
  registrations_.push_back(PayloadAs<rehome_register>(*packet_));
  auto reply = std::make_unique<rehome_packet>();
  rehome_packet_init(reply.get(), REHOME_MSG_REGISTER, REHOME_FLAG_REPLY, packet_->header.seq);
  reply->header.status = register_status_;
  rehome_refusal_text text = {};
  if (register_status_ != 0) rehome_packet_append(reply.get(), &text, sizeof(text));
  (void)rehome_wire_send(socket_, reply.get());
}

bool FakeLink::ReceiveAnswer(rehome_message type, uint64_t seq) {
  while (Receive()) {
    const rehome_header& header = packet_->header;
    if ((header.flags & REHOME_FLAG_REPLY) == 0) {
      KeepRequest();
    } else {
      return header.type == type && header.seq == seq;
    }
  }
  return false;
}

std::optional<rehome_hello> FakeLink::AnswerHello(uint32_t status, uint32_t features) {
  if (!Receive() || packet_->header.type != REHOME_MSG_HELLO) return std::nullopt;
  rehome_hello hello = PayloadAs<rehome_hello>(*packet_);
  auto reply = std::make_unique<rehome_packet>();
  rehome_packet_init(reply.get(), REHOME_MSG_HELLO, REHOME_FLAG_REPLY, packet_->header.seq);
  reply->header.status = status;
  rehome_hello_reply accepted = {REHOME_PROTOCOL_VERSION, features, 0};
  rehome_refusal_text refused = {};
  if (status == 0) {
    rehome_packet_append(reply.get(), &accepted, sizeof(accepted));
  } else {
    rehome_packet_append(reply.get(), &refused, sizeof(refused));
  }
  if (rehome_wire_send(socket_, reply.get()) != 0) return std::nullopt;
  features_ = hello.features & features;
  return hello;
}

std::optional<rehome_register> FakeLink::AnswerRegister(uint32_t status) {
  register_status_ = status;
  while (registrations_.empty()) {
    if (!Receive()) return std::nullopt;
    KeepRequest();
  }
  register_status_ = REHOME_REFUSED_NONE;
  rehome_register vm = registrations_.front();
  registrations_.pop_front();
  return vm;
}

std::optional<uint32_t> FakeLink::Request(rehome_message type, std::span<const uint8_t> payload,
                                          const std::vector<int>& fds) {
  if (socket_ < 0) return std::nullopt;
  auto request = std::make_unique<rehome_packet>();
  rehome_packet_init(request.get(), type, 0, ++seq_);
  rehome_packet_append(request.get(), payload.data(), payload.size());
  for (int fd : fds) rehome_packet_append_fd(request.get(), fd);
  if (rehome_wire_send(socket_, request.get()) != 0) return std::nullopt;
  if (!ReceiveAnswer(type, seq_)) return std::nullopt;
  return packet_->header.status;
}

std::string FakeLink::refusal_text() const {
  return packet_->header.status == 0 ? "" : PayloadAs<rehome_refusal_text>(*packet_).text;
}

std::optional<uint32_t> FakeLink::Order(rehome_message type, const std::string& migration_id) {
  rehome_migration_ref ref = {};
  rehome_copy_text(ref.migration_id, sizeof(ref.migration_id), migration_id.c_str());
  return Request(type, BytesOf(ref));
}

std::optional<uint32_t> FakeLink::Describe(const std::string& migration_id, bool hold,
                                           rehome_vm* vm) {
  rehome_describe request = {};
  rehome_copy_text(request.migration_id, sizeof(request.migration_id), migration_id.c_str());
  request.hold = hold ? 1 : 0;
  std::optional<uint32_t> status = Request(REHOME_MSG_DESCRIBE, BytesOf(request));
  if (status != 0u) return status;
  if (rehome_description_parse(packet_.get(), 0, REHOME_DESCRIBED_ROLES, vm) != nullptr) {
    return std::nullopt;
  }
  described_format_ = vm->state_format;
  return status;
}

std::optional<uint32_t> FakeLink::Prepare(const rehome_prepare& terms, const rehome_vm& source,
                                          rehome_vm* target) {
  auto body = std::make_unique<rehome_packet>();
  rehome_packet_init(body.get(), REHOME_MSG_PREPARE, 0, 0);
  rehome_packet_append(body.get(), &terms, sizeof(terms));
  rehome_description_append(body.get(), &source);
  std::vector<int> fds(body->fds, body->fds + body->header.fd_count);
  std::optional<uint32_t> status =
      Request(REHOME_MSG_PREPARE, {body->payload, body->header.payload_size}, fds);
  if (status == 0u &&
      rehome_description_parse(packet_.get(), 0, REHOME_DESCRIBED_ROLES, target) != nullptr) {
    return std::nullopt;
  }
  return status;
}

std::optional<uint32_t> FakeLink::ArmTarget(const std::string& migration_id, int source_pidfd) {
  return Request(REHOME_MSG_ARM_TARGET, BytesOf(MakeArm(migration_id, 0)), {source_pidfd});
}

std::optional<uint32_t> FakeLink::ArmSource(const std::string& migration_id, uint64_t layout_digest,
                                            int block, int target_pidfd,
                                            std::optional<uint32_t> state_format) {
  rehome_arm_source request = {};
  request.arm = MakeArm(migration_id, layout_digest);
  request.state_format = state_format.value_or(described_format_);
  const bool chooses = (features_ & REHOME_FEATURE_FORMATS) != 0;
  return Request(REHOME_MSG_ARM_SOURCE, chooses ? BytesOf(request) : BytesOf(request.arm),
                 {block, target_pidfd});
}

std::optional<rehome_probe> FakeLink::Probe(const std::string& migration_id) {
  if (Order(REHOME_MSG_PROBE, migration_id) != 0u) return std::nullopt;
  return PayloadAs<rehome_probe>(*packet_);
}

std::optional<uint32_t> FakeLink::HandIn(const std::string& migration_id, rehome_vm* vm) {
  std::optional<uint32_t> status = Order(REHOME_MSG_HAND_IN, migration_id);
  if (status != 0u) return status;
  const uint32_t roles = REHOME_DESCRIBED_ROLES | REHOME_ROLE_BIT(REHOME_FD_BLOCK);
  if (rehome_description_parse(packet_.get(), 0, roles, vm) != nullptr) return std::nullopt;
  return status;
}

pid_t FakeLink::peer() const {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

std::optional<rehome_event> FakeLink::AwaitEvent(uint32_t kind) {
  for (;;) {
    for (auto it = events_.begin(); it != events_.end(); ++it) {
      if (it->kind != kind) continue;
      rehome_event event = *it;
      events_.erase(it);
      return event;
    }
    if (!Receive()) return std::nullopt;
    KeepRequest();
  }
}

bool FakeLink::AwaitClosed() {
  while (socket_ >= 0 && WaitReadable(socket_)) {
    int result = rehome_wire_receive(socket_, REHOME_END_DAEMON, packet_.get());
    if (result == -EPIPE) return true;
    if (result != 0) return false;
    KeepRequest();
    rehome_packet_close_fds(packet_.get());
  }
  return false;
}

bool FakeLink::SendRaw(std::span<const uint8_t> bytes, const std::vector<int>& fds) {
  iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)), 0);
  msghdr msg = {};
  msg.msg_iov = &part;
  msg.msg_iovlen = 1;
  if (!fds.empty()) {
    msg.msg_control = control.data();
    msg.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&msg);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  return sendmsg(socket_, &msg, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

FakePair MakeFakePair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) abort();
  return {FakeLink(ends[0]), ends[1]};
}

FakeDaemon::FakeDaemon() {
  // Not TEST_TMPDIR: a path in sockaddr_un has 107 bytes.
  char name[] = "/tmp/rehome-agent-XXXXXX";
  if (mkdtemp(name) == nullptr) abort();
  directory_ = name;
  path_ = directory_ + "/agent.sock";
  StartListening();
}

FakeDaemon::~FakeDaemon() {
  StopListening();
  rmdir(directory_.c_str());
}

void FakeDaemon::StartListening() {
  constexpr int kBacklog = 8;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  rehome_copy_text(address.sun_path, sizeof(address.sun_path), path_.c_str());
  socket_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) abort();
  if (listen(socket_, kBacklog) != 0) abort();
}

void FakeDaemon::StopListening() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
  unlink(path_.c_str());
}

FakeLink FakeDaemon::Accept() {
  if (!WaitReadable(socket_)) return FakeLink();
  return FakeLink(accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

}  // namespace rehome
