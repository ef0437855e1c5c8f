// SPDX-License-Identifier: Apache-2.0
//
// The socket file that agents connect to.
#ifndef REHOME_DAEMON_AGENT_LISTENER_H_
#define REHOME_DAEMON_AGENT_LISTENER_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Connections that wait for accept(2). After a restart of the daemon every agent of the host
// connects within REHOME_RECONNECT_MS; those that find the queue full try again.
inline constexpr int kAgentBacklog = 1024;

// A listening, non-blocking SOCK_SEQPACKET socket. Its file is removed when the object goes, unless
// somebody has replaced it.
class AgentListener {
 public:
  // Binds `path` with permissions `mode`. A file that a dead process left is replaced.
  // FAILED_PRECONDITION / SOCKET_IN_USE if somebody listens there, UNAVAILABLE / SOCKET_FAILED with
  // errno in words.
  static absl::StatusOr<AgentListener> Create(const std::string& path, mode_t mode);

  AgentListener(AgentListener&&) = default;
  AgentListener& operator=(AgentListener&&) = delete;
  ~AgentListener();

  BorrowedFd fd() const { return socket_.borrow(); }

 private:
  AgentListener(UniqueFd socket, std::string path, InodeId file)
      : socket_(std::move(socket)), path_(std::move(path)), file_(file) {}

  UniqueFd socket_;
  std::string path_;
  InodeId file_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_AGENT_LISTENER_H_
