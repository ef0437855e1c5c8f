// SPDX-License-Identifier: Apache-2.0
//
// One agent connection on the I/O thread: HELLO, REGISTER, and handing the rest to its link.
#ifndef REHOME_DAEMON_AGENT_CONNECTION_H_
#define REHOME_DAEMON_AGENT_CONNECTION_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/fd_kinds.h"
#include "daemon/process_links.h"
#include "daemon/socket_vmm_link.h"
#include "daemon/vm_directory.h"
#include "daemon/wakeup.h"

namespace rehome {

// Datagrams read from one connection before the others have their turn.
inline constexpr size_t kMaxMessagesPerTurn = 16;

// The meeting point of a thread that waits for a launched target's HELLO and the I/O thread.
class Adoption {
 public:
  // RESOURCE_EXHAUSTED / FD_LIMIT.
  static absl::StatusOr<std::shared_ptr<Adoption>> Create();

  // I/O thread. The first call counts. False if nobody waits any more.
  bool Fulfil(absl::StatusOr<std::shared_ptr<VmmLink>> result);
  // Waits for Fulfil(); DEADLINE_EXCEEDED / AGENT_TIMEOUT, CANCELLED / INTERRUPTED. Once.
  absl::StatusOr<std::shared_ptr<VmmLink>> Wait(std::chrono::steady_clock::time_point deadline,
                                                const Interrupt* interrupt);

 private:
  explicit Adoption(Wakeup wakeup) : wakeup_(std::move(wakeup)) {}
  Wakeup wakeup_;
  std::mutex mutex_;
  bool abandoned_ = false;
  std::optional<absl::StatusOr<std::shared_ptr<VmmLink>>> result_;
};

// Used by the I/O thread only.
class AgentConnection {
 public:
  // What all connections of a server share; outlives them and, `kinds`, their links.
  struct Shared {
    VmDirectory* vms;
    ProcessLinks* links;
    const FdKinds* kinds;
    std::chrono::milliseconds claim_timeout;  // of a target that connected by itself
  };
  // `adoption` is null for a peer that connected by itself.
  AgentConnection(SocketVmmLink::Peer peer, std::shared_ptr<Adoption> adoption, Shared shared,
                  std::chrono::steady_clock::time_point hello_deadline);

  // Reads and handles what has arrived, at most kMaxMessagesPerTurn datagrams. An error means that
  // the connection must be closed with it: AGENT_GONE, AGENT_STALLED, AGENT_PROTOCOL_VIOLATION, or
  // FAILED_PRECONDITION with AGENT_REFUSED_* of our own for a HELLO that was turned down.
  absl::Status HandleReadable();

  // Ends it: the link and whoever waits for the HELLO get `why`, the VM leaves the directory, the
  // socket is closed. Returns the first cause, which may be a violation that a caller of the link
  // found. REQUIRES: the descriptors are in no epoll any more.
  absl::Status Close(const absl::Status& why);

  bool has_said_hello() const { return link_ != nullptr; }
  // Whether somebody waits for its HELLO.
  bool is_awaited() const { return adoption_ != nullptr; }
  // Whether it may stay as long as it likes: an owner, or a target that somebody has claimed.
  bool is_settled() const { return may_stay_ || (has_said_hello() && IsClaimed()); }
  // When it must be settled: at first for its HELLO, then for a target to be claimed.
  std::chrono::steady_clock::time_point deadline() const { return deadline_; }
  BorrowedFd socket() const { return link_ != nullptr ? link_->socket() : peer_.socket.borrow(); }
  BorrowedFd pidfd() const { return link_ != nullptr ? link_->pidfd() : peer_.pidfd.borrow(); }
  // "pid 12 (rehome-vmm 1.0)", for messages.
  std::string Description() const;

 private:
  absl::Status HandleMessage(ReceivedMessage message);
  absl::Status HandleHello(const IncomingMessage& incoming);
  absl::Status HandleRegister(const IncomingMessage& incoming);
  bool IsClaimed() const { return shared_.links->IsClaimed(link_.get()); }
  // OK, or why this peer may not register this VM on this connection.
  absl::Status CheckMayRegister(const WireRegister& vm) const;
  absl::Status RegisterVm(const WireRegister& vm);
  // Sends a refusal before there is a link or after.
  absl::Status Refuse(const IncomingMessage& request, rehome_refusal refusal,
                      std::string_view text);

  SocketVmmLink::Peer peer_;  // moves into the link at HELLO; `process` stays valid
  std::shared_ptr<Adoption> adoption_;
  const Shared shared_;
  std::chrono::steady_clock::time_point deadline_;
  bool may_stay_ = false;  // known with the HELLO
  std::shared_ptr<SocketVmmLink> link_;
  std::string registered_vm_;  // "" before the first REGISTER that was accepted
};

}  // namespace rehome

#endif  // REHOME_DAEMON_AGENT_CONNECTION_H_
