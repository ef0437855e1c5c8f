// SPDX-License-Identifier: Apache-2.0
//
// The directory in which launched VMMs leave what they print.
#ifndef REHOME_DAEMON_VMM_LOG_H_
#define REHOME_DAEMON_VMM_LOG_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Log files kept; with one more the oldest goes. A file is as long as what its VMM prints, which is
// for the VMM's operator to bound.
inline constexpr size_t kMaxVmmLogs = 200;

// Makes `directory` (0700) if it is not there. UNAVAILABLE / STATE_DIRECTORY_UNUSABLE.
absl::Status CreateLogDirectory(const std::string& directory);

// Opens `directory`/`migration_id`.log for appending (0600, close-on-exec), after removing the
// oldest files beyond kMaxVmmLogs. UNAVAILABLE / LAUNCH_FAILED with errno in words.
absl::StatusOr<UniqueFd> OpenVmmLog(const std::string& directory, const std::string& migration_id);

}  // namespace rehome

#endif  // REHOME_DAEMON_VMM_LOG_H_
