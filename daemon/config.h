// SPDX-License-Identifier: Apache-2.0
//
// The daemon's configuration file (TOML; docs/configuration.md is its manual). Everything is
// checked when it is read: a daemon that started has a configuration in which every value is in
// range.
#ifndef REHOME_DAEMON_CONFIG_H_
#define REHOME_DAEMON_CONFIG_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/effect_timeouts.h"
#include "daemon/launcher.h"
#include "daemon/migration.h"
#include "daemon/peer_policy.h"

namespace rehome {

enum class KernelBackend : uint8_t { kKvm, kSim };
enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

// A closed interval that a number of the file must be in.
struct ConfigRange {
  int64_t min;
  int64_t max;
};

// The two that a request may override have their defaults and upper bounds in daemon/migration.h.
inline constexpr ConfigRange kHandoverTimeoutMsRange{1, kMaxHandoverTimeout.count()};
inline constexpr ConfigRange kMigrationDeadlineMsRange{1000, kMaxDeadline.count()};
// From the claim to RUNNING; after it the claimant is killed, which costs more than waiting: a
// hundred times the slowest fence measured (8 ms).
inline constexpr std::chrono::milliseconds kDefaultResolveTimeout{1000};
inline constexpr ConfigRange kResolveTimeoutMsRange{10, 60'000};
// Waits that are no part of the blackout. Below 10 ms a thread that is merely not scheduled is
// taken for one that hangs; beyond 10 minutes a hang looks like a daemon that has stopped.
inline constexpr ConfigRange kPatienceMsRange{10, 600'000};
// As kDefaultConcurrent and kMaxConcurrent of daemon/registry.h, which takes the number.
inline constexpr size_t kDefaultConcurrentMigrations = 8;
inline constexpr ConfigRange kConcurrentMigrationsRange{1, 64};
// The number of an ioctl is 8 bits (_IOC_NRBITS, include/uapi/asm-generic/ioctl.h).
inline constexpr ConfigRange kLinkIoctlRange{0, 255};
inline constexpr ConfigRange kStateFormatRange{1, 65'535};
// uid_t and gid_t without the value that means "no change" to setuid(2).
inline constexpr ConfigRange kUserIdRange{0, 4'294'967'294};

// A file of 256 profiles with long commands is below 1 MiB; a larger one is a mistake.
inline constexpr size_t kMaxConfigBytes = 1u << 20;
inline constexpr size_t kMaxProfiles = 256;
inline constexpr size_t kMaxProfileNameLength = 64;
// execve(2) takes more; a profile that needs more wants a wrapper script.
inline constexpr size_t kMaxCommandArguments = 256;
inline constexpr size_t kMaxEnvironmentEntries = 128;
inline constexpr size_t kMaxArgumentBytes = 4096;
inline constexpr size_t kMaxStateFormats = 64;
inline constexpr size_t kMaxAllowedIds = 256;
// sizeof(sockaddr_un::sun_path) less the terminating NUL.
inline constexpr size_t kMaxSocketPathLength = 107;
inline constexpr size_t kMaxPathLength = 4095;
// Enough to repair a file in one go; a file with more errors is not a configuration.
inline constexpr size_t kMaxConfigErrors = 20;

struct DaemonConfig {
  std::string state_directory = "/var/lib/rehome";
  std::string api_socket = "/run/rehome/api.sock";
  std::string agent_socket = "/run/rehome/agent.sock";
  // Where the file names no uids: the user that the daemon runs as.
  PeerPolicy api_peers;
  PeerPolicy agent_peers;
  KernelBackend kernel = KernelBackend::kKvm;
  // KVM_LINK_GUEST_MEMFD is in no released kernel, so its number is the operator's to say.
  uint32_t link_ioctl = 0xd6;
  size_t concurrent_migrations = kDefaultConcurrentMigrations;
  std::chrono::milliseconds handover_timeout = kDefaultHandoverTimeout;
  std::chrono::milliseconds resolve_timeout = kDefaultResolveTimeout;
  std::chrono::milliseconds deadline = kDefaultDeadline;
  // `claim` and `resolve` are not set here: handover_timeout and resolve_timeout are.
  EffectTimeouts timeouts;
  LogLevel log_level = LogLevel::kInfo;
  // Whether VMMs are asked for the trace of each hop (docs/trace.md).
  bool trace = true;
  // "IP:PORT" with a loopback address; empty: no metrics.
  std::string metrics_listen;
  std::map<std::string, VmmProfile> profiles;  // by name
};

// Reads `text`; `file` is its name in messages. INVALID_ARGUMENT / CONFIG_INVALID with one line per
// error, at most kMaxConfigErrors of them: "file:line:column: section.key: what is wrong".
absl::StatusOr<DaemonConfig> ParseConfig(std::string_view text, std::string_view file);

// ParseConfig() of the file at `path`. NOT_FOUND / CONFIG_NOT_FOUND, UNAVAILABLE /
// CONFIG_UNREADABLE with errno in words, INVALID_ARGUMENT / CONFIG_INVALID.
absl::StatusOr<DaemonConfig> LoadConfig(const std::string& path);

}  // namespace rehome

#endif  // REHOME_DAEMON_CONFIG_H_
