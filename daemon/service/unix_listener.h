// SPDX-License-Identifier: Apache-2.0
//
// A listening UNIX stream socket at a path that belongs to one daemon at a time.
#ifndef REHOME_DAEMON_SERVICE_UNIX_LISTENER_H_
#define REHOME_DAEMON_SERVICE_UNIX_LISTENER_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Connections that wait for accept(2). Local clients connect and are accepted at once.
inline constexpr int kListenBacklog = 64;

// Move-only. Not thread-safe.
class UnixListener {
 public:
  struct Options {
    std::string path;
    mode_t mode = 0660;
    std::optional<gid_t> group;  // of the socket file; none: the daemon's
  };

  // Binds and listens, non-blocking and close-on-exec. A socket that a dead daemon left behind is
  // replaced. "PATH.lock" is locked for as long as the object lives, so that of two daemons that
  // start at once only one looks at the socket at all; the empty file stays.
  //
  // FAILED_PRECONDITION / SOCKET_IN_USE if a living process has it; FAILED_PRECONDITION /
  // SOCKET_PATH_OCCUPIED if the path is no socket; both leave it untouched. FAILED_PRECONDITION /
  // SOCKET_FAILED with errno in words for everything else.
  static absl::StatusOr<UnixListener> Bind(const Options& options);

  UnixListener(UnixListener&&) = default;
  UnixListener& operator=(UnixListener&&) = delete;
  // Removes the socket file, if it is still the one that Bind() made, and then unlocks.
  ~UnixListener();

  BorrowedFd listener() const { return listener_.borrow(); }

 private:
  UnixListener(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  absl::Status Listen(const Options& options);

  std::string path_;
  UniqueFd lock_;
  UniqueFd listener_;
  InodeId file_;  // of the socket file, once bound
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_UNIX_LISTENER_H_
