// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/unix_listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "daemon/reasons.h"
#include "daemon/service/service_reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status Unusable(const std::string& path, const std::string& what, int error) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kSocketFailed,
                    path + ": " + what + ": " + std::strerror(error));
}

absl::Status InUse(const std::string& path) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kSocketInUse,
                    path + " is in use by another daemon");
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // The kernel takes a full array without a terminator, other programs do not.
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Unusable(path, "the path of a UNIX socket has 1 to 107 bytes", ENAMETOOLONG);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Unusable(path, "socket", errno);
  return socket;
}

absl::StatusOr<UniqueFd> Lock(const std::string& path) {
  const std::string lock_path = path + ".lock";
  UniqueFd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.valid()) return Unusable(lock_path, "open", errno);
  if (flock(lock.borrow().raw(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno == EWOULDBLOCK) return InUse(path);
  return Unusable(lock_path, "flock", errno);
}

// Removes what a dead daemon left at `path`. REQUIRES: the lock is held.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Unusable(path, "lstat", errno);
  }
  if (!S_ISSOCK(found.st_mode)) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, service_reason::kSocketPathOccupied,
                      path + " is not a socket; remove it or choose another path");
  }
  // A program that does not know our lock may listen here; only its answer tells.
  absl::StatusOr<UniqueFd> probe = NewSocket(path);
  if (!probe.ok()) return probe.status();
  const int connected =
      connect(probe->borrow().raw(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  // EAGAIN: its backlog is full, so somebody has one. EPROTOTYPE: bound to another kind of socket.
  if (connected == 0 || errno == EAGAIN || errno == EPROTOTYPE) return InUse(path);
  if (errno != ECONNREFUSED) return Unusable(path, "connect", errno);
  if (unlink(path.c_str()) != 0) return Unusable(path, "unlink", errno);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UnixListener> UnixListener::Bind(const Options& options) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(options.path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> lock = Lock(options.path);
  if (!lock.ok()) return lock.status();
  if (absl::Status status = RemoveStale(options.path, *address); !status.ok()) return status;

  UnixListener made(options.path, *std::move(lock));
  absl::StatusOr<UniqueFd> socket = NewSocket(options.path);
  if (!socket.ok()) return socket.status();
  made.listener_ = *std::move(socket);
  if (bind(made.listener_.borrow().raw(), reinterpret_cast<const sockaddr*>(&*address),
           sizeof(*address)) != 0) {
    return Unusable(options.path, "bind", errno);
  }
  if (absl::Status status = made.Listen(options); !status.ok()) return status;
  return made;
}

absl::Status UnixListener::Listen(const Options& options) {
  struct stat made {};
  if (lstat(path_.c_str(), &made) != 0) return Unusable(path_, "lstat", errno);
  file_ = InodeId{.device = made.st_dev, .inode = made.st_ino};
  // Nobody can connect before listen(2), so the file may be more open for a moment.
  if (options.group.has_value() &&
      chown(path_.c_str(), static_cast<uid_t>(-1), *options.group) != 0) {
    return Unusable(path_, "chown to group " + std::to_string(*options.group), errno);
  }
  if (chmod(path_.c_str(), options.mode) != 0) return Unusable(path_, "chmod", errno);
  if (listen(listener_.borrow().raw(), kListenBacklog) != 0) {
    return Unusable(path_, "listen", errno);
  }
  return absl::OkStatus();
}

UnixListener::~UnixListener() {
  if (!listener_.valid()) return;
  struct stat now {};
  if (lstat(path_.c_str(), &now) != 0) return;
  if (InodeId{.device = now.st_dev, .inode = now.st_ino} == file_) unlink(path_.c_str());
}

}  // namespace rehome
