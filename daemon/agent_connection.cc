// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_connection.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

absl::Status Violation(std::string_view message) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation, message);
}

// A refused HELLO or REGISTER in words that a VMM's author finds in the VMM's log.
rehome_refusal RefusalOf(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == reason::kVmIdTaken) return REHOME_REFUSED_ID_TAKEN;
  if (reason == reason::kTooManyVms) return REHOME_REFUSED_RESOURCES;
  if (reason == reason::kBadVmId) return REHOME_REFUSED_MALFORMED;
  return REHOME_REFUSED_INTERNAL;
}

// What the receiving side's errors mean for a connection.
absl::Status ReceiveError(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == "PEER_GONE") {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone,
                      "the VMM has closed its agent connection");
  }
  if (reason == "MESSAGE_TRUNCATED") return Violation(std::string(status.message()));
  return status;
}

}  // namespace

// ---- Adoption ----

absl::StatusOr<std::shared_ptr<Adoption>> Adoption::Create() {
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  return std::shared_ptr<Adoption>(new Adoption(*std::move(wakeup)));
}

bool Adoption::Fulfil(absl::StatusOr<std::shared_ptr<VmmLink>> result) {
  std::lock_guard lock(mutex_);
  if (abandoned_) return false;
  if (result_.has_value()) return true;
  result_ = std::move(result);
  wakeup_.Signal();
  return true;
}

absl::StatusOr<std::shared_ptr<VmmLink>> Adoption::Wait(steady_clock::time_point deadline,
                                                        const Interrupt* interrupt) {
  const Wakeup::Result woken = wakeup_.Wait(deadline, interrupt);
  std::lock_guard lock(mutex_);
  if (result_.has_value()) return *std::move(result_);
  abandoned_ = true;
  if (woken == Wakeup::Result::kInterrupted) {
    return MakeStatus(absl::StatusCode::kCancelled, reason::kInterrupted,
                      "stopped while waiting for the VMM's HELLO");
  }
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kAgentTimeout,
                    "the VMM did not say HELLO in time");
}

// ---- AgentConnection ----

AgentConnection::AgentConnection(SocketVmmLink::Peer peer, std::shared_ptr<Adoption> adoption,
                                 Shared shared, steady_clock::time_point hello_deadline)
    : peer_(std::move(peer)),
      adoption_(std::move(adoption)),
      shared_(shared),
      deadline_(hello_deadline) {}

std::string AgentConnection::Description() const {
  std::string text = absl::StrCat("pid ", peer_.process.pid);
  if (link_ != nullptr) {
    const VmmHello& hello = link_->hello();
    absl::StrAppend(&text, " (", hello.vmm_name, " ", hello.vmm_version, ")");
  }
  return text;
}

absl::Status AgentConnection::HandleReadable() {
  for (size_t i = 0; i < kMaxMessagesPerTurn; ++i) {
    if (link_ != nullptr && link_->closed()) {
      return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone, "closed");
    }
    absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket(), REHOME_MAX_MESSAGE);
    if (!message.ok()) {
      if (ReasonOf(message.status()) == "WOULD_BLOCK") return absl::OkStatus();
      return ReceiveError(message.status());
    }
    if (absl::Status status = HandleMessage(*std::move(message)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status AgentConnection::HandleMessage(ReceivedMessage message) {
  absl::StatusOr<IncomingMessage> incoming = ParseIncoming(message.bytes, message.fds.size());
  if (!incoming.ok()) return incoming.status();
  if (link_ == nullptr) {
    if (incoming->type == REHOME_MSG_HELLO) return HandleHello(*incoming);
    return Violation(
        absl::StrCat("a message of type ", static_cast<int>(incoming->type), " before HELLO"));
  }
  if (incoming->version != link_->version()) {
    return Violation(absl::StrCat("header: version is ", incoming->version, ", negotiated was ",
                                  link_->version()));
  }
  if (incoming->is_reply) return link_->HandleReply(*incoming, std::move(message));
  if (incoming->type == REHOME_MSG_EVENT) return link_->HandleEvent(*incoming);
  if (incoming->type == REHOME_MSG_REGISTER) return HandleRegister(*incoming);
  return Violation("a second HELLO");
}

absl::Status AgentConnection::Refuse(const IncomingMessage& request, rehome_refusal refusal,
                                     std::string_view text) {
  const std::vector<std::byte> datagram = EncodeRefusal(
      {.version = link_ != nullptr ? link_->version() : uint16_t{REHOME_PROTOCOL_VERSION},
       .type = request.type,
       .seq = request.seq},
      refusal, text);
  if (link_ != nullptr) return link_->SendReply(datagram);
  return SendMessage(peer_.socket.borrow(), datagram, {});
}

absl::Status AgentConnection::HandleHello(const IncomingMessage& incoming) {
  absl::StatusOr<WireHello> hello = ParseHello(incoming.payload);
  if (!hello.ok()) {
    // The connection ends either way, so whether the words arrive does not matter.
    (void)Refuse(incoming, REHOME_REFUSED_MALFORMED, std::string(hello.status().message()));
    return hello.status();
  }
  // This daemon speaks one version.
  if (hello->version_min > REHOME_PROTOCOL_VERSION ||
      hello->version_max < REHOME_PROTOCOL_VERSION) {
    const std::string text = absl::StrCat("this rehomed speaks version ", REHOME_PROTOCOL_VERSION,
                                          " of the agent protocol, the VMM ", hello->version_min,
                                          " to ", hello->version_max);
    (void)Refuse(incoming, REHOME_REFUSED_UNSUPPORTED, text);
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kAgentVersionUnsupported,
                      text);
  }
  if (adoption_ != nullptr && !hello->hello.is_target) {
    constexpr char kText[] = "a VMM that was launched as a target must say HELLO as TARGET";
    (void)Refuse(incoming, REHOME_REFUSED_DENIED, kText);
    return Violation(kText);
  }
  hello->hello.features &= REHOME_FEATURES_ALL;
  const uint32_t features = hello->hello.features;
  // The process stays known to this object, for messages.
  SocketVmmLink::Peer peer = {
      .socket = std::move(peer_.socket), .pidfd = std::move(peer_.pidfd), .process = peer_.process};
  link_ = std::make_shared<SocketVmmLink>(std::move(peer), std::move(hello->hello),
                                          REHOME_PROTOCOL_VERSION, shared_.kinds);
  absl::Status sent =
      link_->SendReply(EncodeHelloReply(incoming.seq, REHOME_PROTOCOL_VERSION, features));
  if (!sent.ok()) return sent;
  may_stay_ = adoption_ != nullptr || !link_->hello().is_target;
  deadline_ = steady_clock::now() + shared_.claim_timeout;
  shared_.links->Add(link_, /*claimed=*/adoption_ != nullptr);
  if (adoption_ == nullptr) return absl::OkStatus();
  const bool wanted = adoption_->Fulfil(std::shared_ptr<VmmLink>(link_));
  adoption_.reset();
  if (wanted) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone,
                    "nobody waits for this target any more");
}

absl::Status AgentConnection::CheckMayRegister(const WireRegister& vm) const {
  // One connection, one VM: requests do not say which. Saying it again (after a change) is fine.
  if (!registered_vm_.empty() && vm.vm_id != registered_vm_) {
    return Violation(
        absl::StrCat("a connection of VM ", registered_vm_, " that registers VM ", vm.vm_id));
  }
  if (!link_->hello().is_target) return absl::OkStatus();
  if (!is_settled()) {
    // One that has got a guest meanwhile comes again as its owner.
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kAgentRefusedDenied,
                      "a target that belongs to no migration of this daemon registers a VM");
  }
  // A target has no VM before it ran the guest that it took over.
  const std::string took_over = link_->first_run_migration();
  if (!took_over.empty() && vm.migration_id == took_over) return absl::OkStatus();
  return Violation("a target that registers a VM without having reported its first run");
}

absl::Status AgentConnection::RegisterVm(const WireRegister& vm) {
  const VmmHello& hello = link_->hello();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const VmEntry entry = {
      .vm_id = vm.vm_id,
      .vm_type = vm.vm_type,
      .vcpu_count = vm.vcpu_count,
      .memory_bytes = vm.memory_bytes,
      .vmm = absl::StrCat(hello.vmm_name, " ", hello.vmm_version),
      .state_format_write = hello.state_format_write,
      .process = link_->process(),
      .register_time_unix_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()};
  return shared_.vms->Register(entry, vm.migration_id, link_);
}

absl::Status AgentConnection::HandleRegister(const IncomingMessage& incoming) {
  absl::StatusOr<WireRegister> vm = ParseRegister(incoming.payload);
  if (!vm.ok()) {
    (void)Refuse(incoming, REHOME_REFUSED_MALFORMED, std::string(vm.status().message()));
    return vm.status();
  }
  if (absl::Status status = CheckMayRegister(*vm); !status.ok()) {
    (void)Refuse(incoming, REHOME_REFUSED_DENIED, std::string(status.message()));
    return status;
  }
  // An id that is taken, or no room: the agent may try again on the same connection.
  if (absl::Status status = RegisterVm(*vm); !status.ok()) {
    return Refuse(incoming, RefusalOf(status), std::string(status.message()));
  }
  registered_vm_ = vm->vm_id;
  return link_->SendReply(EncodeMessage({.version = link_->version(),
                                         .type = REHOME_MSG_REGISTER,
                                         .seq = incoming.seq,
                                         .is_reply = true},
                                        {}, 0));
}

absl::Status AgentConnection::Close(const absl::Status& why) {
  absl::Status cause = why;
  if (link_ != nullptr) {
    cause = link_->Detach(why);
    shared_.links->Remove(link_.get());
    shared_.vms->Unregister(link_.get());
  }
  if (adoption_ != nullptr) adoption_->Fulfil(cause);
  peer_.socket.Reset();
  peer_.pidfd.Reset();
  return cause;
}

}  // namespace rehome
