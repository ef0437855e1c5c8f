// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_listener.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status SocketFailed(const std::string& path, const char* call, int error) {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kSocketFailed,
                    absl::StrCat(path, ": ", call, ": ", strerror(error)));
}

UniqueFd NewSocket() {
  return UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// Whether nobody listens on the socket file any more.
bool IsStale(const sockaddr_un& address) {
  const UniqueFd probe = NewSocket();
  if (!probe.valid()) return false;
  return connect(probe.borrow().raw(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)) != 0 &&
         errno == ECONNREFUSED;
}

// bind(2), after removing the file of a dead daemon if there is one.
absl::Status Bind(BorrowedFd socket, const std::string& path, const sockaddr_un& address) {
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (bind(socket.raw(), generic, sizeof(address)) == 0) return absl::OkStatus();
  if (errno != EADDRINUSE) return SocketFailed(path, "bind", errno);
  struct stat file = {};
  const bool is_socket = lstat(path.c_str(), &file) == 0 && S_ISSOCK(file.st_mode);
  if (!is_socket || !IsStale(address)) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kSocketInUse,
                      absl::StrCat(path, is_socket ? ": another process listens there"
                                                   : ": exists and is no socket"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return SocketFailed(path, "unlink", errno);
  if (bind(socket.raw(), generic, sizeof(address)) == 0) return absl::OkStatus();
  return SocketFailed(path, "bind", errno);
}

}  // namespace

absl::StatusOr<AgentListener> AgentListener::Create(const std::string& path, mode_t mode) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return SocketFailed(path, "bind", ENAMETOOLONG);
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket = NewSocket();
  if (!socket.valid()) return SocketFailed(path, "socket", errno);
  // bind() gives the file the mode of the socket's own inode (net/unix/af_unix.c, unix_bind_bsd()),
  // so there is no moment in which others could connect. The umask can only take away.
  if (fchmod(socket.borrow().raw(), mode) != 0) return SocketFailed(path, "fchmod", errno);
  if (absl::Status status = Bind(socket.borrow(), path, address); !status.ok()) return status;
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0) return SocketFailed(path, "lstat", errno);
  AgentListener listener(std::move(socket), path, {.device = file.st_dev, .inode = file.st_ino});
  // The umask of whoever started the daemon must not decide who can connect.
  if (chmod(path.c_str(), mode) != 0) return SocketFailed(path, "chmod", errno);
  if (listen(listener.fd().raw(), kAgentBacklog) != 0) return SocketFailed(path, "listen", errno);
  return listener;
}

AgentListener::~AgentListener() {
  if (!socket_.valid()) return;
  struct stat file = {};
  if (lstat(path_.c_str(), &file) == 0 &&
      file_ == InodeId{.device = file.st_dev, .inode = file.st_ino}) {
    unlink(path_.c_str());
  }
}

}  // namespace rehome
