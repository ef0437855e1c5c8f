// SPDX-License-Identifier: Apache-2.0
//
// gRPC on a UNIX socket: who may connect, how much it may use, health, reflection, the end.
//
// Connections are accepted here and not by gRPC, because gRPC cannot ask the kernel who connected.
#ifndef REHOME_DAEMON_SERVICE_API_SERVER_H_
#define REHOME_DAEMON_SERVICE_API_SERVER_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/peer_policy.h"
#include "daemon/service/peer_table.h"
#include "daemon/service/unix_listener.h"
#include "daemon/service/watch_gate.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "kvmglue/fd.h"

namespace rehome {

// Requests are a few hundred bytes: a name, a filter, a token.
inline constexpr int kMaxRequestBytes = 64 * 1024;
// Each watch stream has a thread; calls that return at once share the rest.
inline constexpr int kMaxRpcThreads = static_cast<int>(kMaxWatchStreams) + 32;
// What gRPC may keep in its buffers: a page of 3 MiB for several slow readers at once.
inline constexpr size_t kMaxRpcBufferBytes = 32u << 20;
// Calls in flight on one connection.
inline constexpr int kMaxStreamsPerConnection = 100;
// How long calls under way may take to end once the daemon stops; then they are cancelled.
inline constexpr std::chrono::milliseconds kShutdownGrace = std::chrono::seconds(2);

// Started, switched and stopped by one thread.
class ApiServer {
 public:
  struct Options {
    std::string socket_path;
    // Whom to let in; a peer's supplementary groups count, too. Everybody else is disconnected at
    // once.
    PeerPolicy allowed;
  };

  // Binds the socket and serves `services`, which must outlive the server, as must `peers` and
  // `watches`. Health says NOT_SERVING until SetServing(). The socket has mode 0660 and the group
  // of `allowed`; 0666 if that would keep an allowed peer out, which is as safe, because the
  // kernel's word about the peer decides. Errors: UnixListener::Bind(); INTERNAL /
  // SERVER_NOT_STARTED.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services, PeerTable* peers,
      WatchGate* watches);

  // Stop().
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // What grpc.health.v1 answers, for the server as a whole ("") and for each service by name.
  // Nothing after Stop().
  void SetServing(bool serving);

  // Says NOT_SERVING, takes no more connections, closes the watch gate, gives calls kShutdownGrace
  // and cancels the rest, removes the socket. Returns when no handler runs any more. Idempotent.
  void Stop();

 private:
  ApiServer(Options options, PeerTable* peers, WatchGate* watches)
      : options_(std::move(options)), peers_(peers), watches_(watches) {}

  absl::Status StartGrpc(const std::vector<grpc::Service*>& services);
  void AcceptLoop();
  // Takes everything that waits. False: out of descriptors or memory, try later.
  bool AcceptAll();
  void Admit(UniqueFd connection);
  bool MayConnect(const ApiPeer& peer) const;
  void LogRefusal(const std::string& who);

  const Options options_;
  PeerTable* const peers_;
  WatchGate* const watches_;
  std::unique_ptr<UnixListener> listener_;
  UniqueFd stop_event_;  // readable once the accept loop is to end
  std::unique_ptr<grpc::Server> server_;
  std::thread accept_thread_;
  // Used by the accept thread only.
  std::chrono::steady_clock::time_point last_refusal_logged_{};
  size_t refusals_unlogged_ = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_API_SERVER_H_
