// SPDX-License-Identifier: Apache-2.0
//
// Starts target VMMs from named profiles of the configuration file. A caller names a profile, never
// a command. The child gets /dev/null, a log file and its agent connection (fd 3,
// REHOME_AGENT_FD=3, REHOME_AGENT_SOCKET=path for reconnects) and nothing else; it is its own
// session, so that it outlives the daemon.
#ifndef REHOME_DAEMON_LAUNCHER_H_
#define REHOME_DAEMON_LAUNCHER_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/interrupt.h"
#include "daemon/migration.h"
#include "kvmglue/fd.h"

namespace rehome {

struct VmmProfile {
  std::string name;
  std::vector<std::string> command;                // argv; [0] is an absolute path
  std::map<std::string, std::string> environment;  // added to PATH only
  std::vector<uint32_t> reads_state_formats;       // empty: ask the VMM once it runs
  bool enabled = true;
};

struct LaunchedVmm {
  UniqueFd pidfd;
  UniqueFd connection;  // our end of the agent socketpair
  ProcessIdentity process;
};

// Thread-safe.
class Launcher {
 public:
  virtual ~Launcher() = default;
  // StartChild() (child_process.h). NOT_FOUND / PROFILE_NOT_FOUND, FAILED_PRECONDITION /
  // PROFILE_DISABLED, UNAVAILABLE / LAUNCH_FAILED (exec's errno is reported, not swallowed).
  virtual absl::StatusOr<LaunchedVmm> Launch(const std::string& profile,
                                             const std::string& migration_id) = 0;
  virtual absl::StatusOr<VmmProfile> Profile(const std::string& name) const = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_LAUNCHER_H_
