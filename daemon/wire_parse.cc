// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/wire_codec.h"
#include "daemon/wire_fields.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using wire::CheckVm;
using wire::ParseName;
using wire::ParseStruct;
using wire::ParseText;
using wire::Take;
using wire::Violation;

// The wire is these structs as the compiler lays them out: none may have padding.
static_assert(sizeof(rehome_header) == 32);
static_assert(sizeof(rehome_hello) == 8 * 4 + 2 * REHOME_ID_SIZE);
static_assert(sizeof(rehome_register) == 2 * REHOME_ID_SIZE + 16);
static_assert(sizeof(rehome_event) == 8 + REHOME_ID_SIZE + REHOME_TEXT_SIZE);
static_assert(sizeof(rehome_description) == REHOME_ID_SIZE + 40);
static_assert(sizeof(rehome_memslot) == 72);
static_assert(sizeof(rehome_fd_entry) == 8 + REHOME_FD_NAME_SIZE);
static_assert(sizeof(rehome_probe) == 16);

enum class Direction { kUnknown, kRequest, kReply };

// How a message of this type reaches the daemon.
Direction DirectionOf(uint16_t type) {
  switch (type) {
    case REHOME_MSG_HELLO:
    case REHOME_MSG_REGISTER:
    case REHOME_MSG_EVENT:
      return Direction::kRequest;
    case REHOME_MSG_DESCRIBE:
    case REHOME_MSG_PREPARE:
    case REHOME_MSG_ARM_TARGET:
    case REHOME_MSG_ARM_SOURCE:
    case REHOME_MSG_START:
    case REHOME_MSG_CANCEL:
    case REHOME_MSG_RELEASE:
    case REHOME_MSG_PROBE:
    case REHOME_MSG_HAND_IN:
      return Direction::kReply;
  }
  return Direction::kUnknown;
}

absl::Status CheckHeader(const rehome_header& header, size_t rest, size_t received_fds) {
  if (header.magic != REHOME_PROTOCOL_MAGIC) return Violation("header: wrong magic");
  if (header.version == 0) return Violation("header: version 0");
  if ((header.flags & ~REHOME_FLAG_REPLY) != 0) return Violation("header: unknown flags");
  if (header.payload_size != rest) {
    return Violation(absl::StrCat("header: payload_size is ", header.payload_size, ", but ", rest,
                                  " bytes follow"));
  }
  if (header.fd_count > REHOME_MAX_FDS || header.fd_count != received_fds) {
    return Violation(absl::StrCat("header: fd_count is ", header.fd_count, ", but ", received_fds,
                                  " descriptors came"));
  }
  const bool is_reply = (header.flags & REHOME_FLAG_REPLY) != 0;
  const Direction direction = DirectionOf(header.type);
  if (direction == Direction::kUnknown) {
    return Violation(absl::StrCat("header: unknown type ", header.type));
  }
  if (is_reply != (direction == Direction::kReply)) {
    return Violation(absl::StrCat("header: type ", header.type,
                                  is_reply ? " is not a reply" : " is not an agent's to request"));
  }
  if (!is_reply && header.status != 0) return Violation("header: a request with a status");
  if (header.status > REHOME_REFUSED_INTERNAL) {
    return Violation(absl::StrCat("header: unknown status ", header.status));
  }
  return absl::OkStatus();
}

bool CarriesFds(const rehome_header& header) {
  return header.status == 0 &&
         (header.type == REHOME_MSG_DESCRIBE || header.type == REHOME_MSG_PREPARE ||
          header.type == REHOME_MSG_HAND_IN);
}

std::string_view RefusalReason(rehome_refusal refusal) {
  switch (refusal) {
    case REHOME_REFUSED_MALFORMED:
      return reason::kAgentRefusedMalformed;
    case REHOME_REFUSED_UNSUPPORTED:
      return reason::kAgentRefusedUnsupported;
    case REHOME_REFUSED_BUSY:
      return reason::kAgentRefusedBusy;
    case REHOME_REFUSED_STATE_FORMAT:
      return reason::kAgentRefusedStateFormat;
    case REHOME_REFUSED_RESOURCES:
      return reason::kAgentRefusedResources;
    case REHOME_REFUSED_KERNEL:
      return reason::kAgentRefusedKernel;
    case REHOME_REFUSED_WRONG_MIGRATION:
      return reason::kAgentRefusedWrongMigration;
    case REHOME_REFUSED_ID_TAKEN:
      return reason::kAgentRefusedIdTaken;
    case REHOME_REFUSED_DENIED:
      return reason::kAgentRefusedDenied;
    case REHOME_REFUSED_NONE:
    case REHOME_REFUSED_INTERNAL:
      break;
  }
  return reason::kAgentRefusedInternal;
}

std::optional<LinkEvent::Kind> EventKind(uint32_t kind) {
  switch (kind) {
    case REHOME_EVENT_RESUMED:
      return LinkEvent::Kind::kResumed;
    case REHOME_EVENT_HANDED_OVER:
      return LinkEvent::Kind::kHandedOver;
    case REHOME_EVENT_FIRST_RUN:
      return LinkEvent::Kind::kFirstRun;
    case REHOME_EVENT_FIRST_RUN_FAILED:
      return LinkEvent::Kind::kFirstRunFailed;
    case REHOME_EVENT_GUEST_STOPPED:
      return LinkEvent::Kind::kGuestStopped;
    case REHOME_EVENT_TAKE_OVER_FAILED:
      return LinkEvent::Kind::kTakeOverFailed;
    case REHOME_EVENT_VM_DEAD:
      return LinkEvent::Kind::kVmDead;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<IncomingMessage> ParseIncoming(std::span<const std::byte> datagram,
                                              size_t received_fds) {
  if (datagram.size() < sizeof(rehome_header) || datagram.size() > REHOME_MAX_MESSAGE) {
    return Violation(absl::StrCat("a datagram of ", datagram.size(), " bytes, must be ",
                                  sizeof(rehome_header), " to ", REHOME_MAX_MESSAGE));
  }
  const rehome_header header = Take<rehome_header>(datagram);
  if (absl::Status status = CheckHeader(header, datagram.size(), received_fds); !status.ok()) {
    return status;
  }
  if (received_fds != 0 && !CarriesFds(header)) {
    return Violation(absl::StrCat("a message of type ", header.type, " with descriptors"));
  }
  return IncomingMessage{.version = header.version,
                         .type = static_cast<rehome_message>(header.type),
                         .is_reply = (header.flags & REHOME_FLAG_REPLY) != 0,
                         .refusal = static_cast<rehome_refusal>(header.status),
                         .seq = header.seq,
                         .fd_count = received_fds,
                         .payload = datagram};
}

absl::StatusOr<WireHello> ParseHello(std::span<const std::byte> payload) {
  absl::StatusOr<rehome_hello> wire = ParseStruct<rehome_hello>(payload, "hello");
  if (!wire.ok()) return wire.status();
  if (wire->version_min == 0 || wire->version_min > wire->version_max) {
    return Violation("hello: empty range of versions");
  }
  if (wire->role != REHOME_ROLE_OWNER && wire->role != REHOME_ROLE_TARGET) {
    return Violation(absl::StrCat("hello: unknown role ", wire->role));
  }
  if (wire->state_format_read_min > wire->state_format_read_max) {
    return Violation("hello: empty range of state formats");
  }
  if (wire->reserved != 0) return Violation("hello: reserved is not 0");
  WireHello hello{.version_min = wire->version_min, .version_max = wire->version_max};
  hello.hello.features = wire->features;
  hello.hello.is_target = wire->role == REHOME_ROLE_TARGET;
  hello.hello.state_format_write = wire->state_format_write;
  hello.hello.state_format_read_min = wire->state_format_read_min;
  hello.hello.state_format_read_max = wire->state_format_read_max;
  absl::Status status = ParseName(wire->vmm_name, "hello: vmm_name", false, &hello.hello.vmm_name);
  if (!status.ok()) return status;
  status = ParseName(wire->vmm_version, "hello: vmm_version", false, &hello.hello.vmm_version);
  if (!status.ok()) return status;
  return hello;
}

absl::StatusOr<WireRegister> ParseRegister(std::span<const std::byte> payload) {
  absl::StatusOr<rehome_register> wire = ParseStruct<rehome_register>(payload, "register");
  if (!wire.ok()) return wire.status();
  WireRegister vm{.vcpu_count = wire->vcpu_count, .memory_bytes = wire->memory_bytes};
  absl::Status status = ParseName(wire->vm_id, "register: vm_id", false, &vm.vm_id);
  if (!status.ok()) return status;
  status = ParseName(wire->migration_id, "register: migration_id", true, &vm.migration_id);
  if (!status.ok()) return status;
  status = CheckVm(wire->vm_type, wire->vcpu_count, &vm.vm_type);
  if (!status.ok()) return status;
  return vm;
}

absl::StatusOr<LinkEvent> ParseEvent(std::span<const std::byte> payload) {
  absl::StatusOr<rehome_event> wire = ParseStruct<rehome_event>(payload, "event");
  if (!wire.ok()) return wire.status();
  const std::optional<LinkEvent::Kind> kind = EventKind(wire->kind);
  if (!kind.has_value()) return Violation(absl::StrCat("event: unknown kind ", wire->kind));
  if (wire->reserved != 0) return Violation("event: reserved is not 0");
  LinkEvent event{.kind = *kind};
  const bool without_migration = *kind == LinkEvent::Kind::kGuestStopped;
  absl::Status status =
      ParseName(wire->migration_id, "event: migration_id", without_migration, &event.migration_id);
  if (!status.ok()) return status;
  if (without_migration) event.migration_id.clear();
  status = ParseText(wire->text, "event: text", &event.text);
  if (!status.ok()) return status;
  return event;
}

absl::Status ParseRefusal(rehome_refusal refusal, std::span<const std::byte> payload) {
  absl::StatusOr<rehome_refusal_text> wire = ParseStruct<rehome_refusal_text>(payload, "refusal");
  if (!wire.ok()) return wire.status();
  std::string text;
  if (absl::Status status = ParseText(wire->text, "refusal: text", &text); !status.ok()) {
    return status;
  }
  return MakeStatus(absl::StatusCode::kFailedPrecondition, RefusalReason(refusal),
                    text.empty() ? "the VMM gave no words" : text);
}

absl::Status ParseEmpty(std::span<const std::byte> payload) {
  if (payload.empty()) return absl::OkStatus();
  return Violation(absl::StrCat("a reply with ", payload.size(), " bytes, must be none"));
}

absl::StatusOr<VmmLink::Probe> ParseProbe(std::span<const std::byte> payload) {
  absl::StatusOr<rehome_probe> wire = ParseStruct<rehome_probe>(payload, "probe");
  if (!wire.ok()) return wire.status();
  if (wire->vm_alive > 1 || wire->guest_running > 1 || wire->reserved != 0) {
    return Violation("probe: a flag that is neither 0 nor 1, or reserved is not 0");
  }
  return VmmLink::Probe{.vm_alive = wire->vm_alive == 1, .guest_running = wire->guest_running == 1};
}

}  // namespace rehome
