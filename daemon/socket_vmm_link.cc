// SPDX-License-Identifier: Apache-2.0
#include "daemon/socket_vmm_link.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/vm_description.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

absl::Status Violation(std::string_view message) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation, message);
}

absl::Status Interrupted() {
  return MakeStatus(absl::StatusCode::kCancelled, reason::kInterrupted,
                    "stopped while waiting for the VMM");
}

absl::Status TimedOut(std::string_view what) {
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kAgentTimeout, what);
}

// What a failed send means for a call.
absl::Status SendError(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == "SOCKET_FULL") {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentStalled,
                      "the VMM does not read its agent connection");
  }
  if (reason == "PEER_GONE") {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone,
                      "the VMM has closed its agent connection");
  }
  return status;
}

bool HasMove(Strategy strategy) {
  return strategy == Strategy::kLinkMove || strategy == Strategy::kMapMove;
}

}  // namespace

SocketVmmLink::SocketVmmLink(Peer peer, VmmHello hello, uint16_t version, const FdKinds* kinds)
    : hello_(std::move(hello)), version_(version), kinds_(kinds), peer_(std::move(peer)) {}

bool SocketVmmLink::closed() const {
  std::lock_guard lock(mutex_);
  return !closed_.ok();
}

std::string SocketVmmLink::first_run_migration() const {
  std::lock_guard lock(mutex_);
  return first_run_migration_;
}

// ---- calls ----

absl::StatusOr<uint64_t> SocketVmmLink::SendRequest(const Request& request, Wakeup* waiter) {
  std::unique_lock lock(mutex_);
  if (!closed_.ok()) return closed_;
  if (pending_.size() >= kMaxPendingCalls) {
    const absl::Status stalled =
        MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentStalled,
                   absl::StrCat("the VMM owes ", pending_.size(), " answers"));
    lock.unlock();
    ShutDown(stalled);
    return stalled;
  }
  const uint64_t seq = next_seq_++;
  const std::vector<std::byte> datagram =
      EncodeMessage({.version = version_, .type = request.type, .seq = seq}, *request.payload,
                    request.fds.size());
  // The reply cannot be handled before the call is pending: the I/O thread needs the lock for that.
  absl::Status sent = SendMessage(peer_.socket.borrow(), datagram, request.fds);
  if (!sent.ok()) return SendError(sent);
  pending_.emplace(seq, PendingCall{.type = request.type, .waiter = waiter});
  return seq;
}

absl::StatusOr<SocketVmmLink::Reply> SocketVmmLink::CollectReply(uint64_t seq,
                                                                 Wakeup::Result result,
                                                                 rehome_message type) {
  std::lock_guard lock(mutex_);
  const auto call = pending_.find(seq);
  // What has happened meanwhile counts for more than why the wait ended.
  if (call->second.reply.has_value()) {
    Reply reply = *std::move(call->second.reply);
    pending_.erase(call);
    return reply;
  }
  if (!closed_.ok()) {
    pending_.erase(call);
    return closed_;
  }
  call->second.waiter = nullptr;
  if (result == Wakeup::Result::kInterrupted) return Interrupted();
  return TimedOut(absl::StrCat("the VMM did not answer request ", static_cast<int>(type)));
}

absl::StatusOr<SocketVmmLink::Reply> SocketVmmLink::Call(const Request& request,
                                                         milliseconds timeout,
                                                         const Interrupt* interrupt) {
  if (!request.payload.ok()) return request.payload.status();
  if (interrupt != nullptr && interrupt->raised()) return Interrupted();
  const steady_clock::time_point deadline = steady_clock::now() + timeout;
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  absl::StatusOr<uint64_t> seq = SendRequest(request, &*wakeup);
  if (!seq.ok()) return seq.status();
  const Wakeup::Result result = wakeup->Wait(deadline, interrupt);
  absl::StatusOr<Reply> reply = CollectReply(*seq, result, request.type);
  if (!reply.ok() || reply->refusal == REHOME_REFUSED_NONE) return reply;
  return CloseOnViolation(ParseRefusal(
      reply->refusal,
      std::span<const std::byte>(reply->message.bytes).subspan(sizeof(rehome_header))));
}

absl::Status SocketVmmLink::CallForNothing(const Request& request, milliseconds timeout,
                                           const Interrupt* interrupt) {
  absl::StatusOr<Reply> reply = Call(request, timeout, interrupt);
  if (!reply.ok()) return reply.status();
  return CloseOnViolation(
      ParseEmpty(std::span<const std::byte>(reply->message.bytes).subspan(sizeof(rehome_header))));
}

absl::StatusOr<VmDescription> SocketVmmLink::CallForDescription(const Request& request,
                                                                DescriptionKind kind,
                                                                milliseconds timeout,
                                                                const Interrupt* interrupt) {
  absl::StatusOr<Reply> reply = Call(request, timeout, interrupt);
  if (!reply.ok()) return reply.status();
  absl::StatusOr<WireDescription> wire = ParseDescription(
      std::span<const std::byte>(reply->message.bytes).subspan(sizeof(rehome_header)),
      reply->message.fds.size(), kind);
  if (!wire.ok()) return CloseOnViolation(wire.status());
  absl::StatusOr<VmDescription> description =
      AssembleDescription(*wire, std::move(reply->message.fds), *kinds_);
  if (!description.ok()) return CloseOnViolation(description.status());
  return description;
}

absl::Status SocketVmmLink::CloseOnViolation(absl::Status status) {
  if (!status.ok() && ReasonOf(status) == reason::kAgentProtocolViolation) ShutDown(status);
  return status;
}

absl::StatusOr<VmDescription> SocketVmmLink::Describe(const std::string& migration_id, bool hold,
                                                      milliseconds timeout, Interrupt* interrupt) {
  absl::StatusOr<VmDescription> vm = CallForDescription(
      {.type = REHOME_MSG_DESCRIBE, .payload = EncodeDescribe(migration_id, hold)},
      DescriptionKind::kSource, timeout, interrupt);
  const bool may_offer = (hello_.features & REHOME_FEATURE_FORMATS) != 0;
  if (vm.ok() && vm->state_format_oldest != 0 && !may_offer) {
    return CloseOnViolation(
        Violation("description: state_format_oldest is not 0, and FORMATS was not agreed on"));
  }
  return vm;
}

absl::StatusOr<VmDescription> SocketVmmLink::Prepare(const PrepareRequest& request,
                                                     milliseconds timeout, Interrupt* interrupt) {
  absl::StatusOr<OutgoingDescription> source =
      DescribeForTarget(*request.source, HasMove(request.strategy), request.block);
  if (!source.ok()) return source.status();
  return CallForDescription({.type = REHOME_MSG_PREPARE,
                             .payload = EncodePrepare(request.migration_id, request.strategy,
                                                      request.fence_policy, source->wire),
                             .fds = source->fds},
                            DescriptionKind::kPrepared, timeout, interrupt);
}

absl::Status SocketVmmLink::OfferTrace(const std::string& migration_id, BorrowedFd area) {
  const absl::StatusOr<std::vector<std::byte>> payload = EncodeReference(migration_id);
  if (!payload.ok()) return payload.status();
  const BorrowedFd fds[] = {area};
  std::lock_guard lock(mutex_);
  if (!closed_.ok()) return closed_;
  return SendError(
      SendMessage(peer_.socket.borrow(),
                  EncodeMessage({.version = version_, .type = REHOME_MSG_TRACE, .seq = next_seq_++},
                                *payload, std::size(fds)),
                  fds));
}

absl::Status SocketVmmLink::ArmTarget(const std::string& migration_id, BorrowedFd source_pidfd,
                                      milliseconds timeout, Interrupt* interrupt) {
  return CallForNothing({.type = REHOME_MSG_ARM_TARGET,
                         .payload = EncodeArm(migration_id, /*layout_digest=*/0),
                         .fds = {source_pidfd}},
                        timeout, interrupt);
}

absl::Status SocketVmmLink::ArmSource(const ArmSourceRequest& request, milliseconds timeout,
                                      Interrupt* interrupt) {
  const bool chooses = (hello_.features & REHOME_FEATURE_FORMATS) != 0;
  return CallForNothing(
      {.type = REHOME_MSG_ARM_SOURCE,
       .payload = chooses ? EncodeArmSource(request.migration_id, request.layout_digest,
                                            request.state_format)
                          : EncodeArm(request.migration_id, request.layout_digest),
       .fds = {request.block, request.target_pidfd}},
      timeout, interrupt);
}

absl::Status SocketVmmLink::Start(const std::string& migration_id, milliseconds timeout) {
  return CallForNothing({.type = REHOME_MSG_START, .payload = EncodeReference(migration_id)},
                        timeout, nullptr);
}

absl::Status SocketVmmLink::Cancel(const std::string& migration_id, milliseconds timeout) {
  return CallForNothing({.type = REHOME_MSG_CANCEL, .payload = EncodeReference(migration_id)},
                        timeout, nullptr);
}

absl::Status SocketVmmLink::Release(const std::string& migration_id, milliseconds timeout) {
  return CallForNothing({.type = REHOME_MSG_RELEASE, .payload = EncodeReference(migration_id)},
                        timeout, nullptr);
}

absl::StatusOr<VmmLink::Probe> SocketVmmLink::ProbeVm(const std::string& migration_id,
                                                      milliseconds timeout) {
  absl::StatusOr<Reply> reply =
      Call({.type = REHOME_MSG_PROBE, .payload = EncodeReference(migration_id)}, timeout, nullptr);
  if (!reply.ok()) return reply.status();
  absl::StatusOr<Probe> probe =
      ParseProbe(std::span<const std::byte>(reply->message.bytes).subspan(sizeof(rehome_header)));
  if (!probe.ok()) return CloseOnViolation(probe.status());
  probe->vm_dead = !probe->vm_alive && (hello_.features & REHOME_FEATURE_EXACT) != 0;
  return probe;
}

absl::StatusOr<HandedIn> SocketVmmLink::HandIn(const std::string& migration_id,
                                               milliseconds timeout) {
  if ((hello_.features & REHOME_FEATURE_RECOVER) == 0) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kAgentRefusedUnsupported,
                      "this VMM's agent cannot hand a migration in");
  }
  absl::StatusOr<Reply> reply = Call(
      {.type = REHOME_MSG_HAND_IN, .payload = EncodeReference(migration_id)}, timeout, nullptr);
  if (!reply.ok()) return reply.status();
  absl::StatusOr<WireDescription> wire = ParseDescription(
      std::span<const std::byte>(reply->message.bytes).subspan(sizeof(rehome_header)),
      reply->message.fds.size(), DescriptionKind::kHandedIn);
  if (!wire.ok()) return CloseOnViolation(wire.status());
  absl::StatusOr<HandedIn> handed_in =
      AssembleHandedIn(*std::move(wire), std::move(reply->message.fds), *kinds_, migration_id);
  if (!handed_in.ok()) return CloseOnViolation(handed_in.status());
  return handed_in;
}

// ---- events ----

std::optional<LinkEvent> SocketVmmLink::TakeEvent(const std::string& migration_id,
                                                  const std::vector<LinkEvent::Kind>& kinds) {
  const auto wanted = std::find_if(events_.begin(), events_.end(), [&](const LinkEvent& event) {
    // GUEST_STOPPED belongs to no migration and interests every one.
    return (event.migration_id == migration_id || event.migration_id.empty()) &&
           std::find(kinds.begin(), kinds.end(), event.kind) != kinds.end();
  });
  if (wanted != events_.end()) {
    LinkEvent event = std::move(*wanted);
    events_.erase(wanted);
    return event;
  }
  if (closed_.ok()) return std::nullopt;
  return LinkEvent{.kind = LinkEvent::Kind::kClosed, .text = std::string(closed_.message())};
}

absl::StatusOr<LinkEvent> SocketVmmLink::AwaitEvent(const std::string& migration_id,
                                                    const std::vector<LinkEvent::Kind>& kinds,
                                                    milliseconds timeout, Interrupt* interrupt) {
  const steady_clock::time_point deadline = steady_clock::now() + timeout;
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  std::unique_lock lock(mutex_);
  event_waiters_.push_back(&*wakeup);
  std::optional<LinkEvent> event = TakeEvent(migration_id, kinds);
  Wakeup::Result result = Wakeup::Result::kSignalled;
  while (!event.has_value() && result == Wakeup::Result::kSignalled) {
    lock.unlock();
    result = wakeup->Wait(deadline, interrupt);
    lock.lock();
    event = TakeEvent(migration_id, kinds);
  }
  std::erase(event_waiters_, &*wakeup);
  if (event.has_value()) return *std::move(event);
  if (result == Wakeup::Result::kInterrupted) return Interrupted();
  return TimedOut("the VMM did not report in time");
}

// ---- I/O thread ----

absl::Status SocketVmmLink::HandleReply(const IncomingMessage& incoming, ReceivedMessage message) {
  std::lock_guard lock(mutex_);
  const auto call = pending_.find(incoming.seq);
  if (call == pending_.end()) {
    return Violation(absl::StrCat("a reply to request ", incoming.seq, ", which nobody sent"));
  }
  if (call->second.type != incoming.type || call->second.reply.has_value()) {
    return Violation(
        absl::StrCat("a second reply, or one of another type, to request ", incoming.seq));
  }
  if (call->second.waiter == nullptr) {
    pending_.erase(call);
    return absl::OkStatus();
  }
  call->second.reply = Reply{.refusal = incoming.refusal, .message = std::move(message)};
  call->second.waiter->Signal();
  return absl::OkStatus();
}

absl::Status SocketVmmLink::HandleEvent(const IncomingMessage& incoming) {
  absl::StatusOr<LinkEvent> event = ParseEvent(incoming.payload);
  if (!event.ok()) return event.status();
  std::lock_guard lock(mutex_);
  if (event->kind == LinkEvent::Kind::kFirstRun) first_run_migration_ = event->migration_id;
  if (events_.size() == kMaxQueuedEvents) events_.pop_front();
  events_.push_back(*std::move(event));
  for (Wakeup* waiter : event_waiters_) waiter->Signal();
  return absl::OkStatus();
}

absl::Status SocketVmmLink::SendReply(std::span<const std::byte> datagram) {
  std::lock_guard lock(mutex_);
  if (!closed_.ok()) return closed_;
  return SendError(SendMessage(peer_.socket.borrow(), datagram, {}));
}

void SocketVmmLink::ShutDown(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (closed_.ok()) closed_ = why;
  // Wakes the I/O thread with EPOLLHUP; only that thread closes the descriptor.
  if (peer_.socket.valid()) shutdown(peer_.socket.borrow().raw(), SHUT_RDWR);
  for (auto& [seq, call] : pending_) {
    if (call.waiter != nullptr) call.waiter->Signal();
  }
  for (Wakeup* waiter : event_waiters_) waiter->Signal();
}

void SocketVmmLink::Close() {
  ShutDown(MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone,
                      "the daemon has closed the agent connection"));
}

absl::Status SocketVmmLink::Detach(const absl::Status& why) {
  ShutDown(why);
  std::lock_guard lock(mutex_);
  peer_.socket.Reset();
  return closed_;
}

}  // namespace rehome
