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

// Below the kernel's SCM_MAX_FD (253, include/net/scm.h) and as REHOME_MAX_FDS of the agent
// protocol.
inline constexpr size_t kMaxFdsPerMessage = 64;

// Sends one datagram; never blocks. UNAVAILABLE / SOCKET_FULL (the peer does not read), UNAVAILABLE
// / PEER_GONE, INVALID_ARGUMENT / TOO_MANY_FDS, RESOURCE_EXHAUSTED / FD_LIMIT (ETOOMANYREFS),
// INVALID_ARGUMENT / MESSAGE_TOO_LARGE (the socket's send buffer could never hold it),
// INVALID_ARGUMENT / EMPTY_MESSAGE: on SOCK_SEQPACKET a receiver cannot tell an empty datagram from
// the end of the connection. Nothing was sent in any of these cases.
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

// Who connected: SO_PEERCRED (a snapshot at connect(2)) and SO_PEERPIDFD (6.5+), else pidfd_open(2)
// on the pid, then checked not to have been re-used: the connection must still be open. (On those
// older kernels one case stays open: the peer exited, its end lives on in another process, and its
// pid went to a third.) NOT_FOUND / PEER_GONE if it has exited, reaped or not.
absl::StatusOr<PeerIdentity> IdentifyPeer(BorrowedFd socket);

// SOCK_SEQPACKET pair, both ends close-on-exec and non-blocking.
struct SocketPair {
  UniqueFd first, second;
};
absl::StatusOr<SocketPair> CreateSocketPair();

// pidfd_open(2), close-on-exec. NOT_FOUND / PROCESS_GONE, INVALID_ARGUMENT / BAD_PID (not positive,
// or a thread that leads no process).
absl::StatusOr<UniqueFd> OpenPidfd(pid_t pid);

// pidfd_send_signal(2). NOT_FOUND / PROCESS_GONE once the process has been reaped (a zombie takes
// signals without effect: OK), PERMISSION_DENIED / SIGNAL_DENIED.
absl::Status SendSignal(BorrowedFd pidfd, int signal_number);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_FD_PASSING_H_
