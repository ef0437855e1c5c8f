// SPDX-License-Identifier: Apache-2.0
//
// The reasons that the client itself raises, beside those that the daemon sends. docs/reasons.md
// has them all. Never rename one.
#ifndef REHOME_CLIENT_CLIENT_REASONS_H_
#define REHOME_CLIENT_CLIENT_REASONS_H_

#include <string_view>

namespace rehome::client_reason {

// Nobody answers at the socket; the message says what the kernel says.
inline constexpr std::string_view kDaemonUnreachable = "DAEMON_UNREACHABLE";
// The daemon closes the connection at once: this user is not on its allow list.
inline constexpr std::string_view kPeerNotAllowed = "PEER_NOT_ALLOWED";
// The caller's own time-out passed; what was waited for goes on.
inline constexpr std::string_view kWaitTimeout = "WAIT_TIMEOUT";
// A file that was asked for cannot be written; the message says which and what the kernel says.
inline constexpr std::string_view kFileNotWritten = "FILE_NOT_WRITTEN";

}  // namespace rehome::client_reason

#endif  // REHOME_CLIENT_CLIENT_REASONS_H_
