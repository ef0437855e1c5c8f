// SPDX-License-Identifier: Apache-2.0
//
// VmmLink over an agent's socket. The thread that owns the socket's epoll (AgentServer) feeds it
// with what arrives; any other thread makes calls. A reply is handed to its caller as it came, and
// the caller takes it apart, so that no agent can keep the I/O thread busy with its descriptions.
#ifndef REHOME_DAEMON_SOCKET_VMM_LINK_H_
#define REHOME_DAEMON_SOCKET_VMM_LINK_H_

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/fd_kinds.h"
#include "daemon/vmm_link.h"
#include "daemon/wakeup.h"
#include "daemon/wire_codec.h"
#include "kvmglue/fd_passing.h"

namespace rehome {

// Requests that an agent has not answered, given-up ones included. A migration has one at a time;
// an agent that owes this many answers is stalled, and loses its connection.
inline constexpr size_t kMaxPendingCalls = 16;
// Events kept until somebody waits for them. A migration gets at most two from each side; the bound
// is for agents that send without end.
inline constexpr size_t kMaxQueuedEvents = 64;

class SocketVmmLink final : public VmmLink {
 public:
  struct Peer {
    UniqueFd socket;  // SOCK_SEQPACKET, non-blocking
    UniqueFd pidfd;
    ProcessIdentity process;
  };
  // A connection whose HELLO was accepted; `hello` has the negotiated features. `kinds` must
  // outlive the link.
  SocketVmmLink(Peer peer, VmmHello hello, uint16_t version, const FdKinds* kinds);

  const VmmHello& hello() const override { return hello_; }
  ProcessIdentity process() const override { return peer_.process; }
  BorrowedFd pidfd() const override { return peer_.pidfd.borrow(); }
  bool closed() const override;
  absl::StatusOr<VmDescription> Describe(const std::string& migration_id, bool hold,
                                         std::chrono::milliseconds timeout,
                                         Interrupt* interrupt) override;
  absl::StatusOr<VmDescription> Prepare(const PrepareRequest& request,
                                        std::chrono::milliseconds timeout,
                                        Interrupt* interrupt) override;
  absl::Status OfferTrace(const std::string& migration_id, BorrowedFd area) override;
  absl::Status ArmTarget(const std::string& migration_id, BorrowedFd source_pidfd,
                         std::chrono::milliseconds timeout, Interrupt* interrupt) override;
  absl::Status ArmSource(const ArmSourceRequest& request, std::chrono::milliseconds timeout,
                         Interrupt* interrupt) override;
  absl::Status Start(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::Status Cancel(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::Status Release(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::StatusOr<Probe> ProbeVm(const std::string& migration_id,
                                std::chrono::milliseconds timeout) override;
  absl::StatusOr<HandedIn> HandIn(const std::string& migration_id,
                                  std::chrono::milliseconds timeout) override;
  absl::StatusOr<LinkEvent> AwaitEvent(const std::string& migration_id,
                                       const std::vector<LinkEvent::Kind>& kinds,
                                       std::chrono::milliseconds timeout,
                                       Interrupt* interrupt) override;
  // The socket's end of the connection is shut down at once; the I/O thread closes the rest.
  void Close() override;

  // ---- for the I/O thread ----

  uint16_t version() const { return version_; }
  // Until Detach().
  BorrowedFd socket() const { return peer_.socket.borrow(); }
  // A reply or an event. `message.bytes` is the datagram that `incoming` was parsed from. An error
  // is a violation of the protocol; the caller closes the connection with it.
  absl::Status HandleReply(const IncomingMessage& incoming, ReceivedMessage message);
  absl::Status HandleEvent(const IncomingMessage& incoming);
  // Sends one of the daemon's replies. Errors as SendMessage().
  absl::Status SendReply(std::span<const std::byte> datagram);
  // The migration whose FIRST_RUN this VMM has reported last; "" if none.
  std::string first_run_migration() const;
  // The connection is over: closes the socket, fails every pending call, ends every wait. `why` is
  // what they get, unless a caller found a violation before; the first cause counts and is
  // returned.
  absl::Status Detach(const absl::Status& why);

 private:
  struct Reply {
    rehome_refusal refusal = REHOME_REFUSED_NONE;
    ReceivedMessage message;
  };
  struct PendingCall {
    rehome_message type = REHOME_MSG_HELLO;
    Wakeup* waiter = nullptr;  // null: nobody waits any more, the late reply is dropped
    std::optional<Reply> reply;
  };
  struct Request {
    rehome_message type;
    absl::StatusOr<std::vector<std::byte>> payload;
    std::vector<BorrowedFd> fds;
  };

  absl::StatusOr<Reply> Call(const Request& request, std::chrono::milliseconds timeout,
                             const Interrupt* interrupt);
  absl::StatusOr<uint64_t> SendRequest(const Request& request, Wakeup* waiter);
  absl::StatusOr<Reply> CollectReply(uint64_t seq, Wakeup::Result result, rehome_message type);
  // A call whose reply carries nothing, and one whose reply is a description.
  absl::Status CallForNothing(const Request& request, std::chrono::milliseconds timeout,
                              const Interrupt* interrupt);
  absl::StatusOr<VmDescription> CallForDescription(const Request& request, DescriptionKind kind,
                                                   std::chrono::milliseconds timeout,
                                                   const Interrupt* interrupt);
  // Passes a violation on after it has closed the connection; other errors as they are.
  absl::Status CloseOnViolation(absl::Status status);
  std::optional<LinkEvent> TakeEvent(const std::string& migration_id,
                                     const std::vector<LinkEvent::Kind>& kinds);
  void ShutDown(const absl::Status& why);

  const VmmHello hello_;
  const uint16_t version_;
  const FdKinds* const kinds_;

  mutable std::mutex mutex_;
  Peer peer_;            // the socket is guarded by mutex_; pidfd and process never change
  absl::Status closed_;  // why the connection has ended; OK while it has not
  uint64_t next_seq_ = 1;
  std::map<uint64_t, PendingCall> pending_;
  std::deque<LinkEvent> events_;
  std::vector<Wakeup*> event_waiters_;
  std::string first_run_migration_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SOCKET_VMM_LINK_H_
