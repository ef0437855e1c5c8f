// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_TCP_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_TCP_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {

// A connection to an IPv4 address, without Nagle's delay, blocking. Tries again until `timeout`: a
// guest that boots has no network at first. DEADLINE_EXCEEDED with the last error of connect(2).
absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, uint16_t port,
                                    std::chrono::milliseconds timeout);

// recv(2) and send(2) return with EAGAIN after this long.
void SetSocketTimeout(BorrowedFd socket, std::chrono::milliseconds timeout);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_TCP_H_
