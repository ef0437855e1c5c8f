// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/peer_table.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "daemon/service/service_reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr std::string_view kFdPrefix = "fd:";

// NGROUPS_MAX of the kernel (include/uapi/linux/limits.h).
constexpr size_t kMaxGroups = 65536;

std::optional<int> NumberIn(std::string_view grpc_peer) {
  if (!grpc_peer.starts_with(kFdPrefix)) return std::nullopt;
  const std::string_view digits = grpc_peer.substr(kFdPrefix.size());
  int number = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

// Supplementary groups; none where the kernel (before 4.13) does not tell.
std::vector<uint32_t> PeerGroups(BorrowedFd connection) {
  std::vector<uint32_t> groups(64);
  socklen_t size = groups.size() * sizeof(uint32_t);
  int result = getsockopt(connection.raw(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  if (result != 0 && errno == ERANGE && size <= kMaxGroups * sizeof(uint32_t)) {
    groups.resize(size / sizeof(uint32_t));
    result = getsockopt(connection.raw(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  }
  groups.resize(result == 0 ? size / sizeof(uint32_t) : 0);
  return groups;
}

}  // namespace

std::string ApiPeer::ToString() const {
  return "uid=" + std::to_string(uid) + " pid=" + std::to_string(pid);
}

absl::StatusOr<ApiPeer> IdentifyApiPeer(BorrowedFd connection) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(connection.raw(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return MakeStatus(absl::StatusCode::kUnavailable, service_reason::kPeerUnknown,
                      std::string("SO_PEERCRED: ") + std::strerror(errno));
  }
  return ApiPeer{.pid = credentials.pid,
                 .uid = credentials.uid,
                 .gid = credentials.gid,
                 .groups = PeerGroups(connection)};
}

bool PeerTable::Add(BorrowedFd connection, const ApiPeer& peer) {
  const absl::StatusOr<FileIdentity> file = Identify(connection);
  if (!file.ok()) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  // Its number is free to be noted anew: whatever had it is closed.
  by_number_.erase(connection.raw());
  if (by_number_.size() >= max_connections_) Sweep();
  if (by_number_.size() >= max_connections_) return false;
  by_number_[connection.raw()] = Entry{.socket = file->id, .peer = peer};
  return true;
}

std::optional<ApiPeer> PeerTable::Find(std::string_view grpc_peer) const {
  const std::optional<int> number = NumberIn(grpc_peer);
  if (!number.has_value()) return std::nullopt;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = by_number_.find(*number);
  if (found == by_number_.end()) return std::nullopt;
  return found->second.peer;
}

std::string PeerTable::Describe(std::string_view grpc_peer) const {
  const std::optional<ApiPeer> peer = Find(grpc_peer);
  return peer.has_value() ? peer->ToString() : "unknown";
}

void PeerTable::Sweep() {
  std::erase_if(by_number_, [](const auto& entry) {
    const absl::StatusOr<FileIdentity> now = Identify(BorrowedFd(entry.first));
    return !now.ok() || now->id != entry.second.socket;
  });
}

}  // namespace rehome
