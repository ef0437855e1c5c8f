// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_TAP_H_
#define REHOME_KVMGLUE_TAP_H_

#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// The descriptor of tap interface `name` (Documentation/networking/tuntap.rst), close-on-exec and
// non-blocking: one Ethernet frame per read(2) and write(2), nothing in front. The interface exists
// before and after; none is made, unless it is removed just then. Needs CAP_NET_ADMIN, unless the
// interface belongs to this user.
//
// NOT_FOUND / TAP_NOT_FOUND: no interface has that name in this network namespace. UNAVAILABLE /
// TAP_BUSY: another process has it. INVALID_ARGUMENT / TAP_NAME_INVALID: not 1 to 15 bytes.
// PERMISSION_DENIED / TAP_DENIED. FAILED_PRECONDITION / TAP_UNSUPPORTED: no /dev/net/tun, or the
// interface of that name is no tap. INTERNAL / SYSCALL_FAILED.
absl::StatusOr<UniqueFd> OpenTap(const std::string& name);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_TAP_H_
