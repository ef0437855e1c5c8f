// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_VERSION_H_
#define REHOME_DAEMON_VERSION_H_

namespace rehome {

// Of rehomed and of the client that ships with it. The API's version is its package, rehome.v1.
inline constexpr char kRehomeVersion[] = "0.1.0";

}  // namespace rehome

#endif  // REHOME_DAEMON_VERSION_H_
