// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end of each API connection. gRPC does not carry the credentials of a UNIX
// socket, but it names a connection that it was given as a descriptor "fd:N".
//
// Why N identifies the connection for as long as a call runs: gRPC closes the descriptor when the
// transport is destroyed, each call holds a reference to its transport (grpc_chttp2_stream, gRPC
// 1.51), and a number that is open cannot be given out again. So a call finds the entry of its own
// connection even when the client is gone and others connect meanwhile.
#ifndef REHOME_DAEMON_SERVICE_PEER_TABLE_H_
#define REHOME_DAEMON_SERVICE_PEER_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Of the API socket. A client needs one; a daemon that talks to 256 programs at once has a leak
// among them.
inline constexpr size_t kMaxApiConnections = 256;

// As it was when the peer connected (SO_PEERCRED, SO_PEERGROUPS).
struct ApiPeer {
  int32_t pid = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;  // supplementary

  std::string ToString() const;  // "uid=0 pid=123"
};

// UNAVAILABLE / PEER_UNKNOWN if the kernel does not tell, which no connected UNIX socket does.
absl::StatusOr<ApiPeer> IdentifyApiPeer(BorrowedFd connection);

// Thread-safe.
class PeerTable {
 public:
  explicit PeerTable(size_t max_connections = kMaxApiConnections)
      : max_connections_(max_connections) {}

  // Notes the peer of a connection that is about to be given to gRPC, in the place of an earlier
  // connection of the same number. False: max_connections are open; the connection is not noted.
  bool Add(BorrowedFd connection, const ApiPeer& peer);

  // Whose call it is, from grpc::ServerContext::peer(). nullopt: not one of our connections.
  std::optional<ApiPeer> Find(std::string_view grpc_peer) const;
  // The same in words, for records and logs; "unknown" for nullopt.
  std::string Describe(std::string_view grpc_peer) const;

 private:
  struct Entry {
    InodeId socket;
    ApiPeer peer;
  };
  // Drops the entries whose descriptor is closed or another file by now. gRPC does not say when it
  // closes one.
  void Sweep();

  const size_t max_connections_;
  mutable std::mutex mutex_;
  std::map<int, Entry> by_number_;  // guarded by mutex_
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_PEER_TABLE_H_
