// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/wire_codec.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// The records' numbers are the wire's.
static_assert(static_cast<int>(Strategy::kLinkMove) == REHOME_STRATEGY_LINK_MOVE);
static_assert(static_cast<int>(Strategy::kMapMove) == REHOME_STRATEGY_MAP_MOVE);
static_assert(static_cast<int>(Strategy::kLink) == REHOME_STRATEGY_LINK);
static_assert(static_cast<int>(Strategy::kMap) == REHOME_STRATEGY_MAP);
static_assert(static_cast<int>(FencePolicy::kKernel) == REHOME_FENCE_KERNEL);
static_assert(static_cast<int>(FencePolicy::kBeforeResume) == REHOME_FENCE_BEFORE_RESUME);
static_assert(static_cast<int>(FencePolicy::kAfterResume) == REHOME_FENCE_AFTER_RESUME);
// The largest message: PREPARE with everything.
static_assert(sizeof(rehome_header) + sizeof(rehome_prepare) + sizeof(rehome_description) +
                  REHOME_MAX_SLOTS * sizeof(rehome_memslot) +
                  REHOME_MAX_FDS * sizeof(rehome_fd_entry) <=
              REHOME_MAX_MESSAGE);

template <typename T>
void Append(std::vector<std::byte>& bytes, const T& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

// Copies `text` into a field that is all zeros; the last byte stays 0.
template <size_t kSize>
void PutText(std::string_view text, char (&field)[kSize]) {
  std::memcpy(field, text.data(), std::min(text.size(), kSize - 1));
}

absl::Status CheckId(std::string_view id) {
  if (id.size() < REHOME_ID_SIZE && id.find('\0') == std::string_view::npos) {
    return absl::OkStatus();
  }
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadMigrationId,
                    absl::StrCat("a migration id has at most ", REHOME_ID_SIZE - 1,
                                 " bytes and no NUL among them"));
}

// T has a migration_id; the other fields come from `message`.
template <typename T>
absl::StatusOr<std::vector<std::byte>> EncodeWithId(std::string_view migration_id, T message) {
  if (absl::Status status = CheckId(migration_id); !status.ok()) return status;
  PutText(migration_id, message.migration_id);
  std::vector<std::byte> payload;
  Append(payload, message);
  return payload;
}

void AppendDescription(std::vector<std::byte>& payload, const WireDescription& vm) {
  rehome_description wire = {};
  PutText(vm.vm_id, wire.vm_id);
  wire.vm_type = static_cast<uint32_t>(vm.vm_type);
  wire.vcpu_count = vm.vcpu_count;
  wire.slot_count = static_cast<uint32_t>(vm.slots.size());
  wire.fd_count = static_cast<uint32_t>(vm.fds.size());
  wire.state_capacity = vm.state_capacity;
  wire.layout_digest = vm.layout_digest;
  wire.state_format = vm.state_format;
  wire.state_format_oldest = vm.state_format_oldest;
  Append(payload, wire);
  for (const rehome_memslot& slot : vm.slots) Append(payload, slot);
  for (const WireFd& fd : vm.fds) {
    rehome_fd_entry entry = {};
    entry.role = fd.role;
    entry.index = fd.index;
    PutText(fd.name, entry.name);
    Append(payload, entry);
  }
}

}  // namespace

std::vector<std::byte> EncodeDescription(const WireDescription& vm) {
  std::vector<std::byte> payload;
  AppendDescription(payload, vm);
  return payload;
}

std::vector<std::byte> EncodeMessage(const OutgoingHeader& header,
                                     std::span<const std::byte> payload, size_t fd_count) {
  rehome_header wire = {};
  wire.magic = REHOME_PROTOCOL_MAGIC;
  wire.version = header.version;
  wire.type = static_cast<uint16_t>(header.type);
  wire.flags = header.is_reply ? REHOME_FLAG_REPLY : 0;
  wire.status = header.refusal;
  wire.seq = header.seq;
  wire.payload_size = static_cast<uint32_t>(payload.size());
  wire.fd_count = static_cast<uint32_t>(fd_count);
  std::vector<std::byte> datagram;
  datagram.reserve(sizeof(wire) + payload.size());
  Append(datagram, wire);
  datagram.insert(datagram.end(), payload.begin(), payload.end());
  return datagram;
}

std::vector<std::byte> EncodeHelloReply(uint64_t seq, uint16_t version, uint32_t features) {
  rehome_hello_reply reply = {};
  reply.version = version;
  reply.features = features;
  return EncodeMessage({.version = version, .type = REHOME_MSG_HELLO, .seq = seq, .is_reply = true},
                       std::as_bytes(std::span(&reply, 1)), 0);
}

std::vector<std::byte> EncodeRefusal(const OutgoingHeader& request, rehome_refusal refusal,
                                     std::string_view text) {
  rehome_refusal_text reply = {};
  PutText(text, reply.text);
  OutgoingHeader header = request;
  header.is_reply = true;
  header.refusal = refusal;
  return EncodeMessage(header, std::as_bytes(std::span(&reply, 1)), 0);
}

absl::StatusOr<std::vector<std::byte>> EncodeReference(std::string_view migration_id) {
  return EncodeWithId(migration_id, rehome_migration_ref{});
}

absl::StatusOr<std::vector<std::byte>> EncodeDescribe(std::string_view migration_id, bool hold) {
  rehome_describe message = {};
  message.hold = hold ? 1 : 0;
  return EncodeWithId(migration_id, message);
}

absl::StatusOr<std::vector<std::byte>> EncodeArm(std::string_view migration_id,
                                                 uint64_t layout_digest) {
  rehome_arm message = {};
  message.layout_digest = layout_digest;
  return EncodeWithId(migration_id, message);
}

absl::StatusOr<std::vector<std::byte>> EncodeArmSource(std::string_view migration_id,
                                                       uint64_t layout_digest,
                                                       uint32_t state_format) {
  // The other form of it, and what follows.
  struct {
    uint32_t state_format, reserved;
  } const more = {state_format, 0};
  static_assert(sizeof(rehome_arm) + sizeof(more) == sizeof(rehome_arm_source));
  absl::StatusOr<std::vector<std::byte>> payload = EncodeArm(migration_id, layout_digest);
  if (payload.ok()) Append(*payload, more);
  return payload;
}

absl::StatusOr<std::vector<std::byte>> EncodePrepare(std::string_view migration_id,
                                                     Strategy strategy, FencePolicy fence_policy,
                                                     const WireDescription& source) {
  if (source.fds.size() > REHOME_MAX_FDS || source.slots.size() > REHOME_MAX_SLOTS) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kTooManyFds,
                      absl::StrCat(source.fds.size(), " descriptors and ", source.slots.size(),
                                   " slots do not fit into one message"));
  }
  rehome_prepare message = {};
  message.strategy = static_cast<uint32_t>(strategy);
  message.fence_policy = static_cast<uint32_t>(fence_policy);
  absl::StatusOr<std::vector<std::byte>> payload = EncodeWithId(migration_id, message);
  if (payload.ok()) AppendDescription(*payload, source);
  return payload;
}

}  // namespace rehome
