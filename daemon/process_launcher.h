// SPDX-License-Identifier: Apache-2.0
//
// The Launcher that starts real processes. What a VMM gets, and nothing else:
//
//   fd 0         /dev/null
//   fd 1, 2      state_directory/vmm-logs/MIGRATION.log, appended
//   fd 3         its agent connection (SOCK_SEQPACKET, non-blocking)
//   environment  PATH (kDefaultPath, unless the profile has one), the profile's variables,
//                REHOME_AGENT_FD=3, REHOME_AGENT_SOCKET, REHOME_MIGRATION_ID
//   process      a session of its own, directory /, umask 077, no signal blocked or ignored
//
// User, groups, capabilities, resource limits, cgroup, namespaces and oom_score_adj are the
// daemon's; a profile that wants others names a wrapper that changes them and executes the VMM.
#ifndef REHOME_DAEMON_PROCESS_LAUNCHER_H_
#define REHOME_DAEMON_PROCESS_LAUNCHER_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/launcher.h"

namespace rehome {

inline constexpr char kDefaultPath[] =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
inline constexpr int kAgentFd = 3;

struct ProcessLauncherOptions {
  std::map<std::string, VmmProfile> profiles;  // by name, as config.h checked them
  std::string state_directory;                 // exists
  std::string agent_socket;                    // for reconnects
};

// Starts the thread that reaps what Launch() started. UNAVAILABLE / STATE_DIRECTORY_UNUSABLE,
// RESOURCE_EXHAUSTED / FD_LIMIT.
//
// A launched VMM that could not be executed is reaped before Launch() returns LAUNCH_FAILED; one
// that exits later is reaped whenever it does, for as long as the launcher lives.
absl::StatusOr<std::unique_ptr<Launcher>> NewProcessLauncher(ProcessLauncherOptions options);

}  // namespace rehome

#endif  // REHOME_DAEMON_PROCESS_LAUNCHER_H_
