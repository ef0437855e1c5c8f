// SPDX-License-Identifier: Apache-2.0
#include "client/channel.h"

#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "client/api_error.h"
#include "client/client_reasons.h"
#include "kvmglue/fd.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

// A daemon that restarts is back within a second; a socket costs nothing to try.
constexpr milliseconds kFirstReconnect(100);
constexpr milliseconds kLastReconnect(1000);
// gRPC's "minimum backoff" is also how long one attempt to connect may take, handshake included: on
// a host that is busy starting VMMs that can be far beyond the first reconnect's pause.
constexpr milliseconds kConnectTimeout(5000);
// A daemon that is stopped or hangs keeps its socket; an unanswered ping tells. The daemon accepts
// pings every 10 s.
constexpr milliseconds kPingInterval(20'000);
constexpr milliseconds kPingTimeout(10'000);
// Above the 3 MiB of the largest page.
constexpr int kMaxAnswerBytes = 16 << 20;
// A gRPC server speaks first, at once; one that hangs up does so at once, too.
constexpr milliseconds kFirstWordTimeout(500);

absl::Status Unreachable(const std::string& socket_path, const std::string& what) {
  return ClientError(absl::StatusCode::kUnavailable, client_reason::kDaemonUnreachable,
                     "no daemon at " + socket_path + ": " + what);
}

}  // namespace

std::shared_ptr<grpc::Channel> NewApiChannel(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnect.count());
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeout.count());
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLastReconnect.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingInterval.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeout.count());
  // A stream that only listens sends nothing else for as long as it lives.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  // Nothing of the network is wanted on the way to a local socket.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel("unix:" + socket_path, grpc::InsecureChannelCredentials(),
                                   arguments);
}

absl::Status DiagnoseUnreachable(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.empty() || socket_path.size() >= sizeof(address.sun_path)) {
    return Unreachable(socket_path, "the path of a UNIX socket has 1 to 107 bytes");
  }
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return Unreachable(socket_path, std::strerror(errno));
  const int raw = probe.borrow().raw();
  if (connect(raw, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Unreachable(socket_path, std::strerror(errno));
  }
  pollfd wait{raw, POLLIN, 0};
  if (poll(&wait, 1, static_cast<int>(kFirstWordTimeout.count())) <= 0) {
    return Unreachable(socket_path, "connected, but no answer");
  }
  char first;
  if (recv(raw, &first, 1, MSG_PEEK | MSG_DONTWAIT) > 0) return absl::OkStatus();
  return ClientError(absl::StatusCode::kPermissionDenied, client_reason::kPeerNotAllowed,
                     "the daemon at " + socket_path + " closed the connection: uid " +
                         std::to_string(geteuid()) +
                         " is not on its allow list, or it has too many connections");
}

}  // namespace rehome
