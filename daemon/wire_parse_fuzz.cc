// SPDX-License-Identifier: Apache-2.0
//
// One datagram of an agent against the daemon's codec. Promises: what is accepted says what its
// bytes say (a description that is encoded again and parsed again is the same), and keeps every
// bound that the code behind it relies on.
#include <algorithm>
#include <string>

#include "daemon/testing/wire_messages.h"
#include "daemon/wire_codec.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

using testing_support::BytesOf;
using testing_support::Datagram;
using testing_support::MakeHeader;

bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

bool operator==(const WireFd& a, const WireFd& b) {
  return a.role == b.role && a.index == b.index && a.name == b.name;
}

// A PREPARE carries a description on; whoever gets it must read what was read here.
void CheckSurvivesEncoding(const WireDescription& vm, DescriptionKind kind) {
  const auto prepare = EncodePrepare("m-1", Strategy::kMap, FencePolicy::kAfterResume, vm);
  REHOME_PROMISE(prepare.ok());
  REHOME_PROMISE(prepare->size() + sizeof(rehome_header) <= REHOME_MAX_MESSAGE);
  const auto again =
      ParseDescription(std::span(*prepare).subspan(sizeof(rehome_prepare)), vm.fds.size(), kind);
  REHOME_PROMISE(again.ok());
  REHOME_PROMISE(again->vm_id == vm.vm_id && again->vm_type == vm.vm_type &&
                 again->vcpu_count == vm.vcpu_count && again->state_capacity == vm.state_capacity &&
                 again->layout_digest == vm.layout_digest &&
                 again->state_format == vm.state_format &&
                 again->state_format_oldest == vm.state_format_oldest);
  REHOME_PROMISE(std::equal(again->fds.begin(), again->fds.end(), vm.fds.begin(), vm.fds.end(),
                            [](const WireFd& a, const WireFd& b) { return a == b; }));
  REHOME_PROMISE(again->slots.size() == vm.slots.size());
  for (size_t i = 0; i < vm.slots.size(); ++i) {
    REHOME_PROMISE(BytesOf(again->slots[i]) == BytesOf(vm.slots[i]));
  }
}

bool CheckDescription(std::span<const std::byte> payload, size_t fds, DescriptionKind kind) {
  const auto vm = ParseDescription(payload, fds, kind);
  if (!vm.ok()) return false;
  REHOME_PROMISE(vm->fds.size() == fds && fds <= REHOME_MAX_DESCRIBED_FDS);
  REHOME_PROMISE(!vm->slots.empty() && vm->slots.size() <= REHOME_MAX_SLOTS);
  REHOME_PROMISE(vm->vcpu_count >= 1 && vm->vcpu_count <= REHOME_MAX_VCPUS);
  REHOME_PROMISE(vm->state_capacity <= REHOME_MAX_STATE);
  REHOME_PROMISE(!vm->vm_id.empty() && IsPrintable(vm->vm_id));
  CheckSurvivesEncoding(*vm, kind);
  return true;
}

bool CheckEvent(std::span<const std::byte> payload) {
  const auto event = ParseEvent(payload);
  if (!event.ok()) return false;
  REHOME_PROMISE(event->kind != LinkEvent::Kind::kClosed);
  REHOME_PROMISE(IsPrintable(event->migration_id) && IsPrintable(event->text));
  REHOME_PROMISE(event->migration_id.size() < REHOME_ID_SIZE);
  return true;
}

bool CheckHello(std::span<const std::byte> payload) {
  const auto hello = ParseHello(payload);
  if (!hello.ok()) return false;
  REHOME_PROMISE(hello->version_min >= 1 && hello->version_min <= hello->version_max);
  REHOME_PROMISE(IsPrintable(hello->hello.vmm_name) && IsPrintable(hello->hello.vmm_version));
  return true;
}

bool CheckRegister(std::span<const std::byte> payload) {
  const auto vm = ParseRegister(payload);
  if (!vm.ok()) return false;
  REHOME_PROMISE(vm->vcpu_count >= 1 && vm->vcpu_count <= REHOME_MAX_VCPUS);
  REHOME_PROMISE(IsPrintable(vm->vm_id) && IsPrintable(vm->migration_id));
  return true;
}

bool CheckRefusal(const IncomingMessage& message) {
  const absl::Status refusal = ParseRefusal(message.refusal, message.payload);
  REHOME_PROMISE(!refusal.ok() && !ReasonOf(refusal).empty());
  REHOME_PROMISE(IsPrintable(std::string(refusal.message())));
  return refusal.code() == absl::StatusCode::kFailedPrecondition;
}

bool CheckReply(const IncomingMessage& message) {
  if (message.refusal != REHOME_REFUSED_NONE) return CheckRefusal(message);
  if (message.type == REHOME_MSG_DESCRIBE) {
    return CheckDescription(message.payload, message.fd_count, DescriptionKind::kSource);
  }
  if (message.type == REHOME_MSG_PREPARE) {
    return CheckDescription(message.payload, message.fd_count, DescriptionKind::kPrepared);
  }
  if (message.type == REHOME_MSG_PROBE) return ParseProbe(message.payload).ok();
  return ParseEmpty(message.payload).ok();
}

Seed MakeSeed(const char* name, rehome_message type, bool is_reply, const Bytes& payload,
              uint8_t fds = 0, uint32_t status = 0) {
  rehome_header header = MakeHeader(type, is_reply, 1, payload.size(), fds);
  header.status = status;
  Seed seed{.name = name, .bytes = {std::byte{fds}}};
  AppendBytes(seed.bytes, Datagram(header, payload));
  return seed;
}

}  // namespace

// One byte: the number of descriptors that came along. The rest is the datagram.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const uint8_t fds = in.Take<uint8_t>();
  const auto message = ParseIncoming(in.rest(), fds);
  if (!message.ok()) {
    REHOME_PROMISE(ReasonOf(message.status()) == "AGENT_PROTOCOL_VIOLATION");
    return false;
  }
  REHOME_PROMISE(message->payload.size() + sizeof(rehome_header) == in.rest().size());
  if (message->is_reply) return CheckReply(*message);
  if (message->type == REHOME_MSG_HELLO) return CheckHello(message->payload);
  if (message->type == REHOME_MSG_REGISTER) return CheckRegister(message->payload);
  REHOME_PROMISE(message->type == REHOME_MSG_EVENT);
  return CheckEvent(message->payload);
}

std::vector<Seed> Seeds() {
  testing_support::DescriptionParts prepared = testing_support::MakeDescriptionParts();
  prepared.entries.resize(3);
  prepared.head.fd_count = 3;
  return {
      MakeSeed("hello-owner", REHOME_MSG_HELLO, false,
               BytesOf(testing_support::MakeHello(REHOME_ROLE_OWNER))),
      MakeSeed("hello-target", REHOME_MSG_HELLO, false,
               BytesOf(testing_support::MakeHello(REHOME_ROLE_TARGET))),
      MakeSeed("register", REHOME_MSG_REGISTER, false,
               BytesOf(testing_support::MakeRegister("vm-1", "m-1"))),
      MakeSeed("event-resumed", REHOME_MSG_EVENT, false,
               BytesOf(testing_support::MakeEvent(REHOME_EVENT_RESUMED, "m-1", "because"))),
      MakeSeed("event-stopped", REHOME_MSG_EVENT, false,
               BytesOf(testing_support::MakeEvent(REHOME_EVENT_GUEST_STOPPED, ""))),
      MakeSeed("describe", REHOME_MSG_DESCRIBE, true,
               testing_support::MakeDescriptionParts().Payload(), 6),
      MakeSeed("prepare", REHOME_MSG_PREPARE, true, prepared.Payload(), 3),
      MakeSeed("probe", REHOME_MSG_PROBE, true,
               BytesOf(rehome_probe{.vm_alive = 1, .guest_running = 1})),
      MakeSeed("start", REHOME_MSG_START, true, {}),
      MakeSeed("refusal", REHOME_MSG_PREPARE, true,
               BytesOf(testing_support::MakeRefusal("no memory")), 0, REHOME_REFUSED_RESOURCES),
  };
}

}  // namespace rehome::fuzz
