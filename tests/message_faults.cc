// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a VMM: stands between its agent and the socket, where every message of a migration
// passes, and fails the one that the test names. The agent and its socket are the real ones, and so
// is what the daemon sees of them.
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "tests/message_fault_page.h"
#include "tests/preload_page.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using MessageCall = ssize_t (*)(int, msghdr*, int);

// What has to happen to this message, the next in its direction.
MessageFault Next(Direction direction) {
  static MessageFaultPage* const page = MapPreloadPageOf<MessageFaultPage>(kMessageFaultVariable);
  if (page == nullptr || page->armed.load() == 0) return MessageFault::kNone;
  const uint64_t message = page->counts[static_cast<uint32_t>(direction)].fetch_add(1) + 1;
  if (page->fault == MessageFault::kNone || direction != page->direction) {
    return MessageFault::kNone;
  }
  if (page->once != 0 ? message != page->message : message < page->message) {
    return MessageFault::kNone;
  }
  page->injected.fetch_add(1);
  return page->fault;
}

// Only the agent's connection is SEQPACKET.
bool IsAgentSocket(int socket) {
  int type = 0;
  socklen_t size = sizeof(type);
  return getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

void CloseReceivedFds(msghdr* message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (part->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      close(fd);
    }
  }
}

ssize_t TotalSize(const msghdr* message) {
  size_t size = 0;
  for (size_t i = 0; i < message->msg_iovlen; ++i) size += message->msg_iov[i].iov_len;
  return static_cast<ssize_t>(size);
}

ssize_t Send(MessageCall real, int socket, const msghdr* message, int flags) {
  msghdr sent = *message;
  if (!IsAgentSocket(socket)) return real(socket, &sent, flags);
  switch (Next(Direction::kToDaemon)) {
    case MessageFault::kNone:
      return real(socket, &sent, flags);
    case MessageFault::kCut:
      shutdown(socket, SHUT_RDWR);
      errno = EPIPE;
      return -1;
    case MessageFault::kDrop:
      return TotalSize(message);
    case MessageFault::kGarble:
      break;
  }
  // The agent sends in two parts, the header first (vmm/agent/wire.c).
  rehome_header header;
  memcpy(&header, message->msg_iov[0].iov_base, sizeof(header));
  header.payload_size ^= 1;
  std::array<iovec, 2> parts = {message->msg_iov[0], message->msg_iov[1]};
  parts[0].iov_base = &header;
  sent.msg_iov = parts.data();
  return real(socket, &sent, flags);
}

ssize_t Receive(MessageCall real, int socket, msghdr* message, int flags) {
  const ssize_t received = real(socket, message, flags);
  if (received <= 0 || !IsAgentSocket(socket)) return received;
  switch (Next(Direction::kToAgent)) {
    case MessageFault::kNone:
      return received;
    case MessageFault::kCut:
      CloseReceivedFds(message);
      message->msg_controllen = 0;
      shutdown(socket, SHUT_RDWR);
      return 0;
    case MessageFault::kDrop:
      CloseReceivedFds(message);
      errno = EAGAIN;
      return -1;
    case MessageFault::kGarble:
      static_cast<rehome_header*>(message->msg_iov[0].iov_base)->payload_size ^= 1;
      return received;
  }
  return received;
}

}  // namespace
}  // namespace rehome

extern "C" {

ssize_t sendmsg(int socket, const msghdr* message, int flags) {
  static const auto real = reinterpret_cast<rehome::MessageCall>(dlsym(RTLD_NEXT, "sendmsg"));
  return rehome::Send(real, socket, message, flags);
}

ssize_t recvmsg(int socket, msghdr* message, int flags) {
  static const auto real = reinterpret_cast<rehome::MessageCall>(dlsym(RTLD_NEXT, "recvmsg"));
  return rehome::Receive(real, socket, message, flags);
}

}  // extern "C"
