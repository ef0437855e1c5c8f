// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/service_reasons.h"
#include "daemon/service/status_details.h"

namespace rehome {
namespace {

// A filter of kMaxFilterLength, an id and a method's name, in base64.
constexpr size_t kMaxTokenLength = 2048;

// What comes before the id. NUL separates, because no part contains one.
std::string Prefix(std::string_view method, std::string_view filter) {
  std::string prefix(method);
  prefix.push_back('\0');
  prefix.append(filter);
  prefix.push_back('\0');
  return prefix;
}

}  // namespace

absl::StatusOr<size_t> ParsePageSize(int32_t requested, size_t default_size, size_t max_size) {
  if (requested < 0) {
    return FieldErrors(service_reason::kBadPageSize, {{"page_size", "must not be negative"}});
  }
  if (requested == 0) return default_size;
  return std::min<size_t>(static_cast<size_t>(requested), max_size);
}

std::string MakePageToken(std::string_view method, std::string_view filter,
                          std::string_view last_id) {
  return absl::WebSafeBase64Escape(Prefix(method, filter).append(last_id));
}

absl::StatusOr<std::string> ParsePageToken(std::string_view token, std::string_view method,
                                           std::string_view filter) {
  if (token.empty()) return std::string();
  std::string decoded;
  const std::string prefix = Prefix(method, filter);
  const bool ours = token.size() <= kMaxTokenLength &&
                    absl::WebSafeBase64Unescape({token.data(), token.size()}, &decoded) &&
                    decoded.starts_with(prefix) && IsId(decoded.substr(prefix.size()));
  if (!ours) {
    return FieldErrors(
        service_reason::kBadPageToken,
        {{"page_token", "is not the next_page_token of this list with this filter"}});
  }
  return decoded.substr(prefix.size());
}

}  // namespace rehome
