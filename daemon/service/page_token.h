// SPDX-License-Identifier: Apache-2.0
//
// Paging (AIP-158): page sizes, and tokens that are opaque to clients.
#ifndef REHOME_DAEMON_SERVICE_PAGE_TOKEN_H_
#define REHOME_DAEMON_SERVICE_PAGE_TOKEN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace rehome {

// gRPC clients that set nothing refuse answers above 4 MiB; a page stops growing before.
inline constexpr size_t kMaxPageBytes = 3u << 20;

// `requested` as a client sent it: 0 gives `default_size`, more than `max_size` gives `max_size`.
// INVALID_ARGUMENT / BAD_PAGE_SIZE if negative.
absl::StatusOr<size_t> ParsePageSize(int32_t requested, size_t default_size, size_t max_size);

// A token that leads to what follows `last_id` in the list of `method` with `filter`.
std::string MakePageToken(std::string_view method, std::string_view filter,
                          std::string_view last_id);

// The last_id in a token; "" for the empty token. INVALID_ARGUMENT / BAD_PAGE_TOKEN if it was not
// made for this method and filter.
absl::StatusOr<std::string> ParsePageToken(std::string_view token, std::string_view method,
                                           std::string_view filter);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_PAGE_TOKEN_H_
