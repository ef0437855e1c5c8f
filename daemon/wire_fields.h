// SPDX-License-Identifier: Apache-2.0
//
// Fields of the agent protocol, checked; shared by the parsers of wire_codec.h and by nobody else.
#ifndef REHOME_DAEMON_WIRE_FIELDS_H_
#define REHOME_DAEMON_WIRE_FIELDS_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm_type.h"
#include "vmm/agent/protocol.h"

namespace rehome::wire {

inline absl::Status Violation(std::string_view message) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation, message);
}

// Takes a T from the front of `bytes`. REQUIRES: it is that long.
template <typename T>
T Take(std::span<const std::byte>& bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes = bytes.subspan(sizeof(value));
  return value;
}

// The whole of `payload` as a T.
template <typename T>
absl::StatusOr<T> ParseStruct(std::span<const std::byte> payload, const char* name) {
  if (payload.size() != sizeof(T)) {
    return Violation(absl::StrCat(name, ": ", payload.size(), " bytes, must be ", sizeof(T)));
  }
  return Take<T>(payload);
}

inline bool IsPrintable(char c) { return c >= 0x20 && c <= 0x7e; }

// What comes before the NUL; nullopt without one.
template <size_t kSize>
std::optional<std::string> TerminatedText(const char (&field)[kSize]) {
  const char* end = static_cast<const char*>(std::memchr(field, '\0', kSize));
  if (end == nullptr) return std::nullopt;
  return std::string(field, end);
}

// An identifier or a name: terminated and printable. It ends up in logs, records and requests.
template <size_t kSize>
absl::Status ParseName(const char (&field)[kSize], const char* what, bool may_be_empty,
                       std::string* out) {
  std::optional<std::string> text = TerminatedText(field);
  if (!text.has_value()) return Violation(absl::StrCat(what, " is not NUL-terminated"));
  if (!std::all_of(text->begin(), text->end(), IsPrintable)) {
    return Violation(absl::StrCat(what, " has characters that are not printable ASCII"));
  }
  if (text->empty() && !may_be_empty) return Violation(absl::StrCat(what, " is empty"));
  *out = *std::move(text);
  return absl::OkStatus();
}

// Words for people: whatever is not printable ASCII is replaced, so that no VMM can write control
// sequences to an operator's terminal, lines into a log, or bytes that are not UTF-8 into a
// protobuf.
template <size_t kSize>
absl::Status ParseText(const char (&field)[kSize], const char* what, std::string* out) {
  std::optional<std::string> text = TerminatedText(field);
  if (!text.has_value()) return Violation(absl::StrCat(what, " is not NUL-terminated"));
  std::replace_if(
      text->begin(), text->end(), [](char c) { return !IsPrintable(c); }, '?');
  *out = *std::move(text);
  return absl::OkStatus();
}

inline absl::Status CheckVm(uint32_t type_number, uint32_t vcpu_count, VmType* type) {
  const std::optional<VmType> known = VmTypeFromNumber(type_number);
  if (!known.has_value()) return Violation(absl::StrCat("unknown vm_type ", type_number));
  if (vcpu_count == 0 || vcpu_count > REHOME_MAX_VCPUS) {
    return Violation(
        absl::StrCat("vcpu_count is ", vcpu_count, ", must be 1 to ", REHOME_MAX_VCPUS));
  }
  *type = *known;
  return absl::OkStatus();
}

}  // namespace rehome::wire

#endif  // REHOME_DAEMON_WIRE_FIELDS_H_
