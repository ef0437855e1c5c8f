// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_server.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/agent_connection.h"
#include "daemon/agent_listener.h"
#include "daemon/process_identity.h"
#include "daemon/process_links.h"
#include "daemon/reasons.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/rate_limit.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Events fetched by one epoll_wait(2), and connections accepted before those that exist have their
// turn.
constexpr int kEventsPerTurn = 64;
constexpr int kAcceptsPerTurn = 64;
// Turns that a connection whose process is dead gets for what it had sent: a socket buffer's worth.
constexpr int kLastTurns = 32;

// epoll_event.data: what is ready. A connection has two descriptors, socket and pidfd.
constexpr uint64_t kListenerKey = 0;
constexpr uint64_t kWakeKey = 1;
constexpr uint64_t SocketKey(uint64_t id) { return id * 2; }
constexpr uint64_t PidfdKey(uint64_t id) { return id * 2 + 1; }
constexpr uint64_t kFirstId = 1;

absl::Status Gone(std::string_view message) {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone, message);
}

class EpollAgentServer final : public AgentServer {
 public:
  EpollAgentServer(Options options, VmDirectory* vms, const FdKinds* kinds, AgentListener listener,
                   UniqueFd epoll, Wakeup wakeup)
      : options_(std::move(options)),
        shared_{vms, &links_, kinds, options_.claim_timeout},
        listener_(std::move(listener)),
        epoll_(std::move(epoll)),
        wakeup_(std::move(wakeup)) {}

  ~EpollAgentServer() override {
    stopping_ = true;
    wakeup_.Signal();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start() {
    if (absl::Status status = Watch(wakeup_.fd(), kWakeKey); !status.ok()) return status;
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  absl::Status StartAccepting() override { return Watch(listener_.fd(), kListenerKey); }
  absl::StatusOr<std::shared_ptr<VmmLink>> AdoptTarget(LaunchedVmm& target,
                                                       milliseconds hello_timeout,
                                                       Interrupt* interrupt) override;
  absl::StatusOr<std::shared_ptr<VmmLink>> AwaitLink(const ProcessIdentity& process,
                                                     milliseconds timeout,
                                                     Interrupt* interrupt) override {
    return links_.Await(process, steady_clock::now() + timeout, interrupt);
  }
  Stats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  // A launched target on its way to the I/O thread.
  struct Arrival {
    SocketVmmLink::Peer peer;
    std::shared_ptr<Adoption> adoption;
    steady_clock::time_point hello_deadline;
  };

  void Run();
  void HandleEvent(uint64_t key);
  void HandleSocket(uint64_t id);
  void HandleExit(uint64_t id);
  void TakeArrivals();

  void Accept();
  // A new connection that somebody made to our socket.
  void Welcome(UniqueFd socket);
  bool HasRoom();
  void PauseAccepting(int error);

  void Add(std::unique_ptr<AgentConnection> connection);
  void Close(uint64_t id, const absl::Status& why);
  void CloseLate(steady_clock::time_point now);
  int TimeoutMs(steady_clock::time_point now) const;

  absl::Status Watch(BorrowedFd fd, uint64_t key);
  void Unwatch(BorrowedFd fd);
  void Log(std::string_view line);
  // Changes the numbers that stats() returns.
  template <typename Change>
  void Count(Change change) {
    std::lock_guard lock(mutex_);
    change(stats_);
    stats_.connections = connections_.size();
    stats_.unsettled = unsettled_.size();
  }

  const Options options_;
  ProcessLinks links_;
  const AgentConnection::Shared shared_;
  AgentListener listener_;
  const UniqueFd epoll_;
  Wakeup wakeup_;
  std::atomic<bool> stopping_ = false;

  // Of the I/O thread. Ids grow, so that the first one is the oldest.
  std::map<uint64_t, std::unique_ptr<AgentConnection>> connections_;
  std::set<uint64_t> unsettled_;  // without HELLO, or a target that nobody knows
  uint64_t next_id_ = kFirstId;
  steady_clock::time_point accept_again_ = steady_clock::time_point::min();  // min: not paused
  RateLimit log_limit_{kAgentLogBurst, kAgentLogWindow};

  mutable std::mutex mutex_;  // guards what follows
  std::vector<Arrival> arrivals_;
  Stats stats_;

  std::thread thread_;
};

// ---- any thread ----

absl::StatusOr<std::shared_ptr<VmmLink>> EpollAgentServer::AdoptTarget(LaunchedVmm& target,
                                                                       milliseconds hello_timeout,
                                                                       Interrupt* interrupt) {
  const steady_clock::time_point deadline = steady_clock::now() + hello_timeout;
  UniqueFd socket = std::move(target.connection);
  absl::StatusOr<UniqueFd> pidfd = Duplicate(target.pidfd.borrow());
  if (!pidfd.ok()) return pidfd.status();
  absl::StatusOr<std::shared_ptr<Adoption>> adoption = Adoption::Create();
  if (!adoption.ok()) return adoption.status();
  {
    std::lock_guard lock(mutex_);
    if (stats_.connections + arrivals_.size() >= options_.max_connections) {
      return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kTooManyConnections,
                        absl::StrCat(stats_.connections, " agent connections are open"));
    }
    arrivals_.push_back({.peer = {.socket = std::move(socket),
                                  .pidfd = *std::move(pidfd),
                                  .process = target.process},
                         .adoption = *adoption,
                         .hello_deadline = deadline});
  }
  wakeup_.Signal();
  return (*adoption)->Wait(deadline, interrupt);
}

// ---- I/O thread ----

void EpollAgentServer::Run() {
  epoll_event events[kEventsPerTurn];
  while (!stopping_) {
    const int count =
        epoll_wait(epoll_.borrow().raw(), events, kEventsPerTurn, TimeoutMs(steady_clock::now()));
    // An event may be of a connection that an earlier one of this turn closed: then its id is gone.
    for (int i = 0; i < count; ++i) HandleEvent(events[i].data.u64);
    CloseLate(steady_clock::now());
  }
  TakeArrivals();
  while (!connections_.empty()) Close(connections_.begin()->first, Gone("rehomed is stopping"));
}

void EpollAgentServer::HandleEvent(uint64_t key) {
  if (key == kListenerKey) {
    Accept();
  } else if (key == kWakeKey) {
    wakeup_.Clear();
    TakeArrivals();
  } else if (key == PidfdKey(key / 2)) {
    HandleExit(key / 2);
  } else {
    HandleSocket(key / 2);
  }
}

void EpollAgentServer::HandleSocket(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const absl::Status status = found->second->HandleReadable();
  if (!status.ok()) {
    Close(id, status);
  } else if (found->second->is_settled() && unsettled_.erase(id) != 0) {
    Count([](Stats&) {});
  }
}

// A VMM's last words (FIRST_RUN_FAILED, GUEST_STOPPED) count. The socket itself may never end: a
// child of the VMM may have inherited it.
void EpollAgentServer::HandleExit(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  absl::Status status;
  for (int turn = 0; turn < kLastTurns && status.ok(); ++turn) {
    status = found->second->HandleReadable();
  }
  Close(id, status.ok() ? Gone("the VMM's process has exited") : status);
}

void EpollAgentServer::TakeArrivals() {
  std::vector<Arrival> arrivals;
  {
    std::lock_guard lock(mutex_);
    arrivals.swap(arrivals_);
  }
  for (Arrival& arrival : arrivals) {
    Add(std::make_unique<AgentConnection>(std::move(arrival.peer), std::move(arrival.adoption),
                                          shared_, arrival.hello_deadline));
  }
}

void EpollAgentServer::Accept() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    UniqueFd socket(accept4(listener_.fd().raw(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) {
      Welcome(std::move(socket));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno != EAGAIN) PauseAccepting(errno);
    return;
  }
}

void EpollAgentServer::Welcome(UniqueFd socket) {
  Count([](Stats& stats) { ++stats.accepted; });
  absl::StatusOr<PeerIdentity> peer = IdentifyPeer(socket.borrow());
  if (!peer.ok()) return;  // gone already, or no descriptor left for its pidfd
  if (!options_.peers.Allows(peer->uid, peer->gid)) {
    Count([](Stats& stats) { ++stats.denied; });
    Log(absl::StrCat("agent socket: denied pid ", peer->pid, ", uid ", peer->uid, ", gid ",
                     peer->gid));
    return;
  }
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(peer->pidfd.borrow());
  if (!process.ok() || !HasRoom()) return;
  SocketVmmLink::Peer link_peer = {
      .socket = std::move(socket), .pidfd = std::move(peer->pidfd), .process = *process};
  Add(std::make_unique<AgentConnection>(std::move(link_peer), nullptr, shared_,
                                        steady_clock::now() + options_.hello_timeout));
}

bool EpollAgentServer::HasRoom() {
  if (connections_.size() >= options_.max_connections) {
    Count([](Stats& stats) { ++stats.crowded_out; });
    Log(absl::StrCat("agent socket: ", connections_.size(), " connections, one more was closed"));
    return false;
  }
  const auto is_stranger = [this](uint64_t id) {
    const AgentConnection& connection = *connections_.at(id);
    return !connection.is_awaited() && !connection.is_settled();
  };
  const auto strangers = std::count_if(unsettled_.begin(), unsettled_.end(), is_stranger);
  if (static_cast<size_t>(strangers) < options_.max_unsettled_connections) return true;
  const uint64_t oldest = *std::find_if(unsettled_.begin(), unsettled_.end(), is_stranger);
  Log(absl::StrCat("agent socket: ", strangers,
                   " connections without HELLO or without a migration, the oldest (",
                   connections_.at(oldest)->Description(), ") was closed"));
  Close(oldest, Gone("crowded out"));
  Count([](Stats& stats) { ++stats.crowded_out; });
  return true;
}

void EpollAgentServer::PauseAccepting(int error) {
  Log(absl::StrCat("agent socket: accept: ", strerror(error)));
  accept_again_ = steady_clock::now() + kAcceptPause;
  Unwatch(listener_.fd());
}

void EpollAgentServer::Add(std::unique_ptr<AgentConnection> connection) {
  const uint64_t id = next_id_++;
  const BorrowedFd socket = connection->socket();
  const BorrowedFd pidfd = connection->pidfd();
  connections_.emplace(id, std::move(connection));
  unsettled_.insert(id);
  Count([](Stats&) {});
  absl::Status status = Watch(socket, SocketKey(id));
  if (status.ok()) status = Watch(pidfd, PidfdKey(id));
  if (!status.ok()) Close(id, status);
}

void EpollAgentServer::Close(uint64_t id, const absl::Status& why) {
  const auto found = connections_.find(id);
  const std::unique_ptr<AgentConnection> connection = std::move(found->second);
  connections_.erase(found);
  unsettled_.erase(id);
  Unwatch(connection->socket());
  Unwatch(connection->pidfd());
  const absl::Status cause = connection->Close(why);
  const bool violation = ReasonOf(cause) == reason::kAgentProtocolViolation;
  Count([violation](Stats& stats) { stats.violations += violation ? 1 : 0; });
  if (ReasonOf(cause) == reason::kAgentGone) return;
  Log(absl::StrCat("agent ", connection->Description(), ": closed: ", ReasonOf(cause), ": ",
                   std::string(cause.message())));
}

void EpollAgentServer::CloseLate(steady_clock::time_point now) {
  std::vector<uint64_t> late;
  for (uint64_t id : unsettled_) {
    if (connections_.at(id)->deadline() <= now) late.push_back(id);
  }
  for (uint64_t id : late) {
    if (connections_.at(id)->is_settled()) {  // claimed since it was looked at
      unsettled_.erase(id);
      Count([](Stats&) {});
      continue;
    }
    const auto* why =
        connections_.at(id)->has_said_hello() ? "a target of no migration" : "no HELLO in time";
    Close(id, MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kAgentTimeout, why));
    Count([](Stats& stats) { ++stats.timed_out; });
  }
  if (accept_again_ != steady_clock::time_point::min() && accept_again_ <= now) {
    accept_again_ = Watch(listener_.fd(), kListenerKey).ok() ? steady_clock::time_point::min()
                                                             : now + kAcceptPause;
  }
}

// Until the next connection is late or accepting goes on; -1 if there is nothing to wait for.
int EpollAgentServer::TimeoutMs(steady_clock::time_point now) const {
  steady_clock::time_point next = steady_clock::time_point::max();
  for (uint64_t id : unsettled_) next = std::min(next, connections_.at(id)->deadline());
  if (accept_again_ != steady_clock::time_point::min()) next = std::min(next, accept_again_);
  if (next == steady_clock::time_point::max()) return -1;
  // Rounded up, or the loop would turn without end within the last millisecond.
  const auto left = std::chrono::ceil<milliseconds>(std::max(next, now) - now);
  constexpr milliseconds kLongest{60'000};  // far below what an int holds
  return static_cast<int>(std::min(left, kLongest).count());
}

absl::Status EpollAgentServer::Watch(BorrowedFd fd, uint64_t key) {
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = key}};
  if (epoll_ctl(epoll_.borrow().raw(), EPOLL_CTL_ADD, fd.raw(), &event) == 0) {
    return absl::OkStatus();
  }
  return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                    absl::StrCat("epoll_ctl: ", strerror(errno)));
}

// A pidfd may be a duplicate of one that lives on, so closing it would not end its watch.
void EpollAgentServer::Unwatch(BorrowedFd fd) {
  epoll_ctl(epoll_.borrow().raw(), EPOLL_CTL_DEL, fd.raw(), nullptr);
}

void EpollAgentServer::Log(std::string_view line) {
  uint64_t suppressed = 0;
  if (!options_.log || !log_limit_.Allow(steady_clock::now(), &suppressed)) return;
  if (suppressed == 0) {
    options_.log(line);
  } else {
    options_.log(absl::StrCat(std::string(line), " (", suppressed, " more lines held back)"));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<AgentServer>> AgentServer::Create(Options options, VmDirectory* vms,
                                                                 const FdKinds* kinds) {
  absl::StatusOr<AgentListener> listener =
      AgentListener::Create(options.socket_path, options.peers.SocketMode());
  if (!listener.ok()) return listener.status();
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                      absl::StrCat("epoll_create1: ", strerror(errno)));
  }
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  auto server = std::make_unique<EpollAgentServer>(
      std::move(options), vms, kinds, *std::move(listener), std::move(epoll), *std::move(wakeup));
  if (absl::Status status = server->Start(); !status.ok()) return status;
  return server;
}

}  // namespace rehome
