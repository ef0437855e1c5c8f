// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/api_server.h"

#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "daemon/service/service_reasons.h"
#include "kvmglue/status_reason.h"
#include "spdlog/spdlog.h"

namespace rehome {
namespace {

// Out of descriptors: others must close some first; trying again at once would only burn CPU.
constexpr std::chrono::milliseconds kAcceptBackoff(100);
// A peer that is not allowed and tries in a loop must not fill the log.
constexpr std::chrono::seconds kRefusalLogInterval(1);
// A client that neither calls nor answers: its connection is closed after this. It reconnects by
// itself with its next call.
constexpr std::chrono::milliseconds kMaxConnectionIdle = std::chrono::minutes(10);
// A client that is stopped (SIGSTOP, debugger) keeps its socket open; a ping that is not answered
// tells, and frees the stream that it holds.
constexpr std::chrono::milliseconds kPingInterval = std::chrono::seconds(60);
constexpr std::chrono::milliseconds kPingTimeout = std::chrono::seconds(20);
// How often a client may ping; ours does so every 20 s. gRPC's default of 5 min would have a client
// that wants to know whether its daemon still lives disconnected as a nuisance.
constexpr std::chrono::milliseconds kMinClientPingInterval = std::chrono::seconds(10);

absl::Status NotStarted(const std::string& what) {
  return MakeStatus(absl::StatusCode::kInternal, service_reason::kServerNotStarted, what);
}

// The group that lets every allowed gid in, if one can, and the mode to go with it.
UnixListener::Options SocketOptions(const ApiServer::Options& options) {
  UnixListener::Options socket{.path = options.socket_path};
  if (!options.allowed.gids.empty()) socket.group = options.allowed.gids.front();
  const bool more_users = std::any_of(options.allowed.uids.begin(), options.allowed.uids.end(),
                                      [](uid_t uid) { return uid != 0 && uid != geteuid(); });
  if (more_users || options.allowed.gids.size() > 1) socket.mode = 0666;
  return socket;
}

// One completion queue with one or two threads that wait for it: an idle daemon costs little, and a
// busy one is busy elsewhere. Calls get threads of their own, up to the quota.
void SetBounds(grpc::ServerBuilder* builder) {
  using Option = grpc::ServerBuilder::SyncServerOption;
  builder->SetSyncServerOption(Option::NUM_CQS, 1);
  builder->SetSyncServerOption(Option::MIN_POLLERS, 1);
  builder->SetSyncServerOption(Option::MAX_POLLERS, 2);
  builder->SetMaxReceiveMessageSize(kMaxRequestBytes);
  grpc::ResourceQuota quota("rehome-api");
  quota.SetMaxThreads(kMaxRpcThreads);
  quota.Resize(kMaxRpcBufferBytes);
  builder->SetResourceQuota(quota);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                              static_cast<int>(kMaxConnectionIdle.count()));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kPingInterval.count()));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              static_cast<int>(kPingTimeout.count()));
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              static_cast<int>(kMinClientPingInterval.count()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(
    const Options& options, const std::vector<grpc::Service*>& services, PeerTable* peers,
    WatchGate* watches) {
  std::unique_ptr<ApiServer> made(new ApiServer(options, peers, watches));
  absl::StatusOr<UnixListener> listener = UnixListener::Bind(SocketOptions(options));
  if (!listener.ok()) return listener.status();
  made->listener_ = std::make_unique<UnixListener>(*std::move(listener));
  if (absl::Status status = made->StartGrpc(services); !status.ok()) return status;
  made->stop_event_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made->stop_event_.valid()) return NotStarted("eventfd");
  made->accept_thread_ = std::thread(&ApiServer::AcceptLoop, made.get());
  return made;
}

absl::Status ApiServer::StartGrpc(const std::vector<grpc::Service*>& services) {
  // Process-wide switch, read by each ServerBuilder. Reflection registers itself when linked in.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  SetBounds(&builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return NotStarted("gRPC did not start");
  SetServing(false);
  return absl::OkStatus();
}

ApiServer::~ApiServer() { Stop(); }

void ApiServer::SetServing(bool serving) {
  if (server_ == nullptr) return;
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);
  for (const char* service : {"rehome.v1.MigrationService", "rehome.v1.VirtualMachineService",
                              "rehome.v1.HostService", ""}) {
    health->SetServingStatus(service, serving);
  }
}

void ApiServer::Stop() {
  if (server_ == nullptr) return;
  SetServing(false);
  watches_->Close();
  if (accept_thread_.joinable()) {
    const uint64_t one = 1;
    // Cannot fail: the counter of a fresh eventfd has room.
    [[maybe_unused]] const ssize_t written = write(stop_event_.borrow().raw(), &one, sizeof(one));
    accept_thread_.join();
  }
  listener_.reset();
  server_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
  server_.reset();
}

void ApiServer::AcceptLoop() {
  std::array<pollfd, 2> waits = {pollfd{stop_event_.borrow().raw(), POLLIN, 0},
                                 pollfd{listener_->listener().raw(), POLLIN, 0}};
  bool exhausted = false;
  while (true) {
    const nfds_t count = exhausted ? 1 : 2;
    const int timeout = exhausted ? static_cast<int>(kAcceptBackoff.count()) : -1;
    if (poll(waits.data(), count, timeout) < 0 && errno != EINTR) {
      spdlog::error("api: no more connections are accepted: poll: {}", std::strerror(errno));
      return;
    }
    if (waits[0].revents != 0) return;
    exhausted = !AcceptAll();
  }
}

bool ApiServer::AcceptAll() {
  while (true) {
    UniqueFd connection(
        accept4(listener_->listener().raw(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid()) {
      Admit(std::move(connection));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    return errno == EAGAIN;
  }
}

void ApiServer::Admit(UniqueFd connection) {
  const absl::StatusOr<ApiPeer> peer = IdentifyApiPeer(connection.borrow());
  if (!peer.ok()) return LogRefusal(peer.status().ToString());
  if (!MayConnect(*peer)) return LogRefusal(peer->ToString() + ": not on the allow list");
  if (!peers_->Add(connection.borrow(), *peer)) {
    return LogRefusal(peer->ToString() + ": too many connections");
  }
  grpc::AddInsecureChannelFromFd(server_.get(), connection.Release());
}

bool ApiServer::MayConnect(const ApiPeer& peer) const {
  if (options_.allowed.Allows(peer.uid, peer.gid)) return true;
  return std::any_of(peer.groups.begin(), peer.groups.end(),
                     [&](uint32_t group) { return options_.allowed.Allows(peer.uid, group); });
}

void ApiServer::LogRefusal(const std::string& who) {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_refusal_logged_ < kRefusalLogInterval) {
    ++refusals_unlogged_;
    return;
  }
  spdlog::warn("api: connection refused: {} ({} others since the last such line)", who,
               refusals_unlogged_);
  last_refusal_logged_ = now;
  refusals_unlogged_ = 0;
}

}  // namespace rehome
