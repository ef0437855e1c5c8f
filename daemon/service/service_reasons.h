// SPDX-License-Identifier: Apache-2.0
//
// The reasons that the gRPC edge itself raises; daemon/reasons.h has the others. API:
// docs/reasons.md says for each what to do. Never rename one.
#ifndef REHOME_DAEMON_SERVICE_SERVICE_REASONS_H_
#define REHOME_DAEMON_SERVICE_SERVICE_REASONS_H_

#include <string_view>

namespace rehome::service_reason {

// --- requests ---

// Fields of CreateMigrationRequest; BadRequest lists each.
inline constexpr std::string_view kBadField = "BAD_FIELD";
// A resource name that has not the form that its field asks for.
inline constexpr std::string_view kBadName = "BAD_NAME";
inline constexpr std::string_view kBadFilter = "BAD_FILTER";
inline constexpr std::string_view kBadPageSize = "BAD_PAGE_SIZE";
// Not a token of this method, or one of a list with another filter.
inline constexpr std::string_view kBadPageToken = "BAD_PAGE_TOKEN";
// kMaxWatchStreams streams are open.
inline constexpr std::string_view kTooManyWatches = "TOO_MANY_WATCHES";

// --- connections ---

// The kernel does not say who connected.
inline constexpr std::string_view kPeerUnknown = "PEER_UNKNOWN";

// --- api_server: why the daemon does not start ---

// Something that is not a socket is in the socket's place; it was left untouched.
inline constexpr std::string_view kSocketPathOccupied = "SOCKET_PATH_OCCUPIED";
// gRPC did not start (threads, descriptors).
inline constexpr std::string_view kServerNotStarted = "SERVER_NOT_STARTED";

}  // namespace rehome::service_reason

#endif  // REHOME_DAEMON_SERVICE_SERVICE_REASONS_H_
