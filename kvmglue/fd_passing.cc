// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/fd_passing.h"

#include <poll.h>
#include <sys/socket.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

// include/uapi/asm-generic/socket.h, since 6.5; newer than Debian 12's headers.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

constexpr size_t kControlBytes = CMSG_SPACE(kMaxFdsPerMessage * sizeof(int));

// Takes ownership of every descriptor in `header`; each must be closed even if the message is bad.
void AdoptFds(const cmsghdr* header, std::vector<UniqueFd>& fds) {
  const size_t bytes = header->cmsg_len - CMSG_LEN(0);
  const unsigned char* data = CMSG_DATA(header);
  for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
    int raw = -1;
    std::memcpy(&raw, data + at, sizeof(raw));
    fds.emplace_back(raw);
  }
}

// CMSG_NXTHDR does not change what it walks, but its signature wants it mutable.
std::vector<UniqueFd> AdoptAllFds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) AdoptFds(header, fds);
  }
  return fds;
}

// Events of one descriptor, now; 0 if there are none.
short PollNow(BorrowedFd fd, short events) {
  pollfd entry = {.fd = fd.raw(), .events = events, .revents = 0};
  return poll(&entry, 1, 0) > 0 ? entry.revents : 0;
}

absl::Status PeerGone(pid_t pid) {
  return MakeStatus(absl::StatusCode::kNotFound, "PEER_GONE",
                    absl::StrCat("process ", pid, " on the other end has exited"));
}

absl::StatusOr<UniqueFd> PeerPidfd(BorrowedFd socket, pid_t pid) {
  int raw = -1;
  socklen_t size = sizeof(raw);
  const SysResult result =
      CaptureErrno(getsockopt(socket.raw(), SOL_SOCKET, SO_PEERPIDFD, &raw, &size));
  if (result.ok()) return UniqueFd(raw);
  if (result.error != ENOPROTOOPT) {
    return ErrnoStatus(KernelCall::kPeerCredentials, result.error, absl::StrCat("pid ", pid));
  }
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
  if (absl::IsNotFound(pidfd.status())) return PeerGone(pid);
  if (!pidfd.ok()) return pidfd.status();
  if ((PollNow(socket, POLLRDHUP) & (POLLHUP | POLLRDHUP)) != 0) return PeerGone(pid);
  return pidfd;
}

}  // namespace

absl::Status SendMessage(BorrowedFd socket, std::span<const std::byte> bytes,
                         std::span<const BorrowedFd> fds) {
  if (bytes.empty()) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "EMPTY_MESSAGE",
                      "an empty datagram reads like the end of the connection");
  }
  if (fds.size() > kMaxFdsPerMessage) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "TOO_MANY_FDS",
                      absl::StrCat(fds.size(), " descriptors, at most ", kMaxFdsPerMessage));
  }
  iovec data = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[kControlBytes] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (size_t i = 0; i < fds.size(); ++i) {
      const int raw = fds[i].raw();
      std::memcpy(CMSG_DATA(header) + i * sizeof(raw), &raw, sizeof(raw));
    }
  }
  const SysResult result =
      Uninterrupted([&] { return sendmsg(socket.raw(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kSendMessage, result.error,
                       absl::StrCat(bytes.size(), " bytes, ", fds.size(), " descriptors"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ReceivedMessage> ReceiveMessage(BorrowedFd socket, size_t max_bytes) {
  ReceivedMessage received;
  received.bytes.resize(max_bytes);
  iovec data = {.iov_base = received.bytes.data(), .iov_len = received.bytes.size()};
  alignas(cmsghdr) char control[kControlBytes];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const SysResult result = Uninterrupted(
      [&] { return recvmsg(socket.raw(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (!result.ok()) return ErrnoStatus(KernelCall::kReceiveMessage, result.error, "");

  received.fds = AdoptAllFds(message);
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "MESSAGE_TRUNCATED",
                      absl::StrCat("a datagram with more than ", max_bytes, " bytes or ",
                                   kMaxFdsPerMessage, " descriptors, or no descriptor free here"));
  }
  if (result.value == 0) {
    return MakeStatus(absl::StatusCode::kUnavailable, "PEER_GONE", "end of the connection");
  }
  received.bytes.resize(static_cast<size_t>(result.value));
  return received;
}

absl::StatusOr<PeerIdentity> IdentifyPeer(BorrowedFd socket) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  const SysResult result =
      CaptureErrno(getsockopt(socket.raw(), SOL_SOCKET, SO_PEERCRED, &credentials, &size));
  if (!result.ok()) return ErrnoStatus(KernelCall::kPeerCredentials, result.error, "SO_PEERCRED");
  absl::StatusOr<UniqueFd> pidfd = PeerPidfd(socket, credentials.pid);
  if (!pidfd.ok()) return pidfd.status();
  // A pidfd is readable once its process has exited; newer kernels hand one out even then.
  if (PollNow(pidfd->borrow(), POLLIN) != 0) return PeerGone(credentials.pid);
  return PeerIdentity{.pid = credentials.pid,
                      .uid = credentials.uid,
                      .gid = credentials.gid,
                      .pidfd = *std::move(pidfd)};
}

absl::StatusOr<SocketPair> CreateSocketPair() {
  int raw[2] = {-1, -1};
  const SysResult result =
      CaptureErrno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, raw));
  if (!result.ok()) return ErrnoStatus(KernelCall::kSocketPair, result.error, "");
  return SocketPair{.first = UniqueFd(raw[0]), .second = UniqueFd(raw[1])};
}

absl::StatusOr<UniqueFd> OpenPidfd(pid_t pid) {
  const SysResult result = CaptureErrno(pidfd_open(pid, 0));
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kPidfdOpen, result.error, absl::StrCat("pid ", pid));
  }
  return UniqueFd(static_cast<int>(result.value));
}

absl::Status SendSignal(BorrowedFd pidfd, int signal_number) {
  const SysResult result =
      CaptureErrno(pidfd_send_signal(pidfd.raw(), signal_number, /*info=*/nullptr, /*flags=*/0));
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kPidfdSendSignal, result.error,
                       absl::StrCat("signal ", signal_number));
  }
  return absl::OkStatus();
}

}  // namespace rehome
