// SPDX-License-Identifier: Apache-2.0
//
// The way to the daemon: its UNIX socket.
#ifndef REHOME_CLIENT_CHANNEL_H_
#define REHOME_CLIENT_CHANNEL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/channel.h"

namespace rehome {

inline constexpr char kDefaultApiSocket[] = "/run/rehome/api.sock";

// A channel that connects with its first call and reconnects by itself, at most once a second.
std::shared_ptr<grpc::Channel> NewApiChannel(const std::string& socket_path);

// Why a call found nobody, asked of the kernel by connecting once more: gRPC's own words name
// neither a missing file nor a refused user. UNAVAILABLE / DAEMON_UNREACHABLE or, if the daemon
// hangs up without a word, PERMISSION_DENIED / PEER_NOT_ALLOWED. OK if a daemon answers now.
absl::Status DiagnoseUnreachable(const std::string& socket_path);

}  // namespace rehome

#endif  // REHOME_CLIENT_CHANNEL_H_
