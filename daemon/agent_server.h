// SPDX-License-Identifier: Apache-2.0
//
// The agent socket of the host: accepts VMMs, asks who they are, and runs all their connections on
// one I/O thread. A connection becomes a VmmLink with its HELLO; an owner's VM enters the
// VmDirectory with its REGISTER and leaves it when the connection or the process ends.
//
// Nobody behind the socket is trusted. A violation of the protocol closes that one connection;
// numbers, sizes and waits are bounded below. One thing is left to whoever may connect at all: a
// descriptor that nobody asked for is closed on the I/O thread, and close(2) of some (a TCP socket
// with SO_LINGER, a file of a FUSE server that does not answer) takes as long as their owner likes.
#ifndef REHOME_DAEMON_AGENT_SERVER_H_
#define REHOME_DAEMON_AGENT_SERVER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/fd_kinds.h"
#include "daemon/interrupt.h"
#include "daemon/launcher.h"
#include "daemon/peer_policy.h"
#include "daemon/vm_directory.h"
#include "daemon/vmm_link.h"

namespace rehome {

// Every VM that may be registered, a target for each migration that may run, and as many again for
// connections that come and go. Each costs two descriptors: RLIMIT_NOFILE must be above that.
inline constexpr size_t kMaxAgentConnections = 8192 + 1024;
// Connections that have not said HELLO, and targets that nobody has claimed. When one more comes
// the oldest makes room: an agent says HELLO at once, and twice the targets that can be in doubt
// (kMaxStoredEscrows of daemon/escrow_store.h) fit, so only those that never will are hit.
inline constexpr size_t kMaxUnsettledConnections = 256;
// From accept to HELLO: thread wake-ups of a loaded host, not work.
inline constexpr std::chrono::milliseconds kAgentHelloTimeout{5000};
// For a target that connected by itself to be claimed. A daemon that takes a migration up again
// waits for its target within seconds of its start; the target itself tries for ever.
inline constexpr std::chrono::milliseconds kTargetClaimTimeout{30'000};
// Pause of accepting when descriptors have run out: the next one to be free is worth waiting for,
// and the listening socket would stay readable all the time.
inline constexpr std::chrono::milliseconds kAcceptPause{100};
// Lines about misbehaving peers: enough to see what goes on, too few to fill a disk.
inline constexpr uint32_t kAgentLogBurst = 10;
inline constexpr std::chrono::seconds kAgentLogWindow{10};

class AgentServer {
 public:
  struct Options {
    std::string socket_path;
    PeerPolicy peers;
    size_t max_connections = kMaxAgentConnections;
    size_t max_unsettled_connections = kMaxUnsettledConnections;
    std::chrono::milliseconds hello_timeout = kAgentHelloTimeout;
    std::chrono::milliseconds claim_timeout = kTargetClaimTimeout;
    // Takes one line, without its end, about a peer that was turned away or broke the protocol.
    // Called on the I/O thread, at most kAgentLogBurst times in kAgentLogWindow; may be empty.
    std::function<void(std::string_view)> log;
  };

  // Listens and starts the I/O thread; who connects waits for StartAccepting(). FAILED_PRECONDITION
  // / SOCKET_IN_USE, UNAVAILABLE / SOCKET_FAILED, RESOURCE_EXHAUSTED / FD_LIMIT. `vms` and `kinds`
  // must outlive the server, `kinds` every link it made.
  static absl::StatusOr<std::unique_ptr<AgentServer>> Create(Options options, VmDirectory* vms,
                                                             const FdKinds* kinds);
  // Closes every connection: their links report AGENT_GONE.
  virtual ~AgentServer() = default;

  // From now on connections are accepted: whoever asks for a VM id has to find those taken that
  // unfinished migrations need. Once. RESOURCE_EXHAUSTED / FD_LIMIT.
  virtual absl::Status StartAccepting() = 0;

  // Takes `target`'s connection over and waits for its HELLO, which must have the role TARGET. The
  // pidfd stays the caller's. Thread-safe. On an error the connection is closed, the process lives:
  // DEADLINE_EXCEEDED / AGENT_TIMEOUT, CANCELLED / INTERRUPTED, UNAVAILABLE / AGENT_GONE,
  // INVALID_ARGUMENT / AGENT_PROTOCOL_VIOLATION, FAILED_PRECONDITION / AGENT_VERSION_UNSUPPORTED,
  // RESOURCE_EXHAUSTED / TOO_MANY_CONNECTIONS or FD_LIMIT.
  virtual absl::StatusOr<std::shared_ptr<VmmLink>> AdoptTarget(
      LaunchedVmm& target, std::chrono::milliseconds hello_timeout, Interrupt* interrupt) = 0;

  // The connection of exactly `process` that has said HELLO, as owner or as target: the newest one
  // that lives, or the first that comes within `timeout`. This is how both sides of a migration
  // find back to a daemon that was started anew. A target that connects by itself can register
  // nothing before somebody has got it here, and is closed after claim_timeout if nobody does.
  // Thread-safe. DEADLINE_EXCEEDED / AGENT_TIMEOUT, CANCELLED / INTERRUPTED, RESOURCE_EXHAUSTED /
  // FD_LIMIT.
  virtual absl::StatusOr<std::shared_ptr<VmmLink>> AwaitLink(const ProcessIdentity& process,
                                                             std::chrono::milliseconds timeout,
                                                             Interrupt* interrupt) = 0;

  // For metrics; thread-safe. The first two are now, the others since the start.
  struct Stats {
    size_t connections = 0;
    size_t unsettled = 0;  // of these, without HELLO, or targets that nobody has claimed
    uint64_t accepted = 0;
    uint64_t denied = 0;       // by uid and gid
    uint64_t crowded_out = 0;  // by max_connections or max_unsettled_connections
    uint64_t timed_out = 0;    // no HELLO, or not claimed
    uint64_t violations = 0;
  };
  virtual Stats stats() const = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_AGENT_SERVER_H_
