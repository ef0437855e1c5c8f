// SPDX-License-Identifier: Apache-2.0
//
// The version of the product. Here because daemon and client both know proto/ and not each other.
#ifndef REHOME_PROTO_VERSION_H_
#define REHOME_PROTO_VERSION_H_

namespace rehome {

// Semantic version of daemon, client and agent library, released together.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace rehome

#endif  // REHOME_PROTO_VERSION_H_
