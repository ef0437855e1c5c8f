// SPDX-License-Identifier: Apache-2.0
//
// vmm/agent/protocol.h as C++ values. Pure: no system call, no descriptor, no state; bytes in,
// values or an error out. This is the code that a hostile agent talks to, so every count, length,
// number and reserved field is checked here, before anybody else sees the message.
//
// Every parser fails with INVALID_ARGUMENT / AGENT_PROTOCOL_VIOLATION, naming the field.
#ifndef REHOME_DAEMON_WIRE_CODEC_H_
#define REHOME_DAEMON_WIRE_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "daemon/vmm_link.h"
#include "kvmglue/vm_type.h"
#include "vmm/agent/protocol.h"

namespace rehome {

// ---- from the agent ----

// A datagram whose header is sound: known type, sent in the direction that this type has, lengths
// and fd count as announced, fds only where the type carries them.
struct IncomingMessage {
  uint16_t version = 0;
  rehome_message type = REHOME_MSG_HELLO;
  bool is_reply = false;
  rehome_refusal refusal = REHOME_REFUSED_NONE;
  uint64_t seq = 0;
  size_t fd_count = 0;
  std::span<const std::byte> payload;  // inside the datagram
};
absl::StatusOr<IncomingMessage> ParseIncoming(std::span<const std::byte> datagram,
                                              size_t received_fds);

struct WireHello {
  uint32_t version_min = 0, version_max = 0;
  VmmHello hello;  // features as offered, not yet negotiated
};
absl::StatusOr<WireHello> ParseHello(std::span<const std::byte> payload);

struct WireRegister {
  std::string vm_id;  // printable; the directory checks the rest
  VmType vm_type = VmType::kDefault;
  uint32_t vcpu_count = 0;
  uint64_t memory_bytes = 0;
  std::string migration_id;  // "" or the migration by which it got the guest
};
absl::StatusOr<WireRegister> ParseRegister(std::span<const std::byte> payload);

absl::StatusOr<LinkEvent> ParseEvent(std::span<const std::byte> payload);

// The error that a refused request becomes: FAILED_PRECONDITION / AGENT_REFUSED_* with the agent's
// words, or a protocol violation if the payload is no refusal. Never OK.
absl::Status ParseRefusal(rehome_refusal refusal, std::span<const std::byte> payload);

// A reply that carries nothing.
absl::Status ParseEmpty(std::span<const std::byte> payload);

absl::StatusOr<VmmLink::Probe> ParseProbe(std::span<const std::byte> payload);

// A descriptor's place in a message: its role, and which of that role it is.
struct WireFd {
  rehome_fd_role role = REHOME_FD_VM;
  uint32_t index = 0;  // of MEMORY, else 0
  std::string name;    // of NAMED, else ""
};

// rehome_description with its arrays, in both directions.
struct WireDescription {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint32_t vcpu_count = 0;
  uint64_t state_capacity = 0;
  uint64_t layout_digest = 0;
  uint32_t state_format = 0;
  uint32_t state_format_oldest = 0;  // 0: no choice
  std::vector<rehome_memslot> slots;
  std::vector<WireFd> fds;  // in the order of the descriptors
};

// Which fds a description must come with.
enum class DescriptionKind {
  kSource,    // reply to DESCRIBE: VM, MEMORY..., at most one CONFIG, NAMED...
  kPrepared,  // reply to PREPARE: VM, MEMORY...
  kHandedIn   // reply to HAND_IN: as kSource, and BLOCK
};
// Also checked: roles and their number, MEMORY indices 0..n-1 each once, every memory used by a
// slot, names unique. Not checked here, because it takes the descriptors: what they are.
absl::StatusOr<WireDescription> ParseDescription(std::span<const std::byte> payload,
                                                 size_t fd_count, DescriptionKind kind);

// ---- to the agent: whole datagrams ----

struct OutgoingHeader {
  uint16_t version = REHOME_PROTOCOL_VERSION;
  rehome_message type = REHOME_MSG_HELLO;
  uint64_t seq = 0;
  bool is_reply = false;
  rehome_refusal refusal = REHOME_REFUSED_NONE;
};
std::vector<std::byte> EncodeMessage(const OutgoingHeader& header,
                                     std::span<const std::byte> payload, size_t fd_count);
std::vector<std::byte> EncodeHelloReply(uint64_t seq, uint16_t version, uint32_t features);
// `text` is cut to fit.
std::vector<std::byte> EncodeRefusal(const OutgoingHeader& request, rehome_refusal refusal,
                                     std::string_view text);

// A description and its arrays alone: what ParseDescription() takes.
std::vector<std::byte> EncodeDescription(const WireDescription& vm);

// ---- to the agent: payloads. INVALID_ARGUMENT / BAD_MIGRATION_ID if the id does not fit ----

absl::StatusOr<std::vector<std::byte>> EncodeReference(std::string_view migration_id);
absl::StatusOr<std::vector<std::byte>> EncodeDescribe(std::string_view migration_id, bool hold);
absl::StatusOr<std::vector<std::byte>> EncodeArm(std::string_view migration_id,
                                                 uint64_t layout_digest);
// For an agent with feature FORMATS.
absl::StatusOr<std::vector<std::byte>> EncodeArmSource(std::string_view migration_id,
                                                       uint64_t layout_digest,
                                                       uint32_t state_format);
// INVALID_ARGUMENT / TOO_MANY_FDS for more than REHOME_MAX_FDS.
absl::StatusOr<std::vector<std::byte>> EncodePrepare(std::string_view migration_id,
                                                     Strategy strategy, FencePolicy fence_policy,
                                                     const WireDescription& source);

}  // namespace rehome

#endif  // REHOME_DAEMON_WIRE_CODEC_H_
