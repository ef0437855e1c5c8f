// SPDX-License-Identifier: Apache-2.0
//
// Datagrams with file descriptors over AF_UNIX SOCK_SEQPACKET.
#ifndef REHOME_KVMGLUE_FD_PASSING_H_
#define REHOME_KVMGLUE_FD_PASSING_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Below the kernel's SCM_MAX_FD (253, include/net/scm.h) and as REHOME_MAX_FDS of the agent protocol.
inline constexpr size_t kMaxFdsPerMessage = 64;

// Sends one datagram; never blocks. UNAVAILABLE / SOCKET_FULL (the peer does not read), UNAVAILABLE /
// PEER_GONE, INVALID_ARGUMENT / TOO_MANY_FDS, RESOURCE_EXHAUSTED / FD_LIMIT (ETOOMANYREFS).
absl::Status SendMessage(BorrowedFd socket, std::span<const std::byte> bytes,
                         std::span<const BorrowedFd> fds);

struct ReceivedMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;  // close-on-exec (MSG_CMSG_CLOEXEC)
};

// Receives one datagram of at most `max_bytes`; never blocks. UNAVAILABLE / WOULD_BLOCK if there is
// none. UNAVAILABLE / PEER_GONE at end of file. INVALID_ARGUMENT / MESSAGE_TRUNCATED if data or
// control data did not fit: whatever fds did arrive have been closed.
absl::StatusOr<ReceivedMessage> ReceiveMessage(BorrowedFd socket, size_t max_bytes);

struct PeerIdentity {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  UniqueFd pidfd;
};

// Who connected: SO_PEERCRED (a snapshot at connect(2)) and SO_PEERPIDFD (6.5+), else pidfd_open(2) on
// the pid, then checked not to have been re-used. NOT_FOUND / PEER_GONE if it has exited.
absl::StatusOr<PeerIdentity> IdentifyPeer(BorrowedFd socket);

// SOCK_SEQPACKET pair, both ends close-on-exec and non-blocking.
struct SocketPair {
  UniqueFd first, second;
};
absl::StatusOr<SocketPair> CreateSocketPair();

// pidfd_open(2) and pidfd_send_signal(2); glibc 2.36 of Debian 12 has both.
absl::StatusOr<UniqueFd> OpenPidfd(pid_t pid);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_FD_PASSING_H_
