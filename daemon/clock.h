// SPDX-License-Identifier: Apache-2.0
//
// Wall-clock time for people who read records, and the boot that every other time belongs to.
// Nothing is decided by wall-clock time: deadlines use CLOCK_MONOTONIC.
#ifndef REHOME_DAEMON_CLOCK_H_
#define REHOME_DAEMON_CLOCK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace rehome {

// CLOCK_REALTIME, ns since 1970.
int64_t UnixNanos();

// The kernel's random UUID of this boot. FAILED_PRECONDITION / BOOT_ID_UNREADABLE without /proc.
absl::StatusOr<std::string> ReadBootId();

}  // namespace rehome

#endif  // REHOME_DAEMON_CLOCK_H_
