// SPDX-License-Identifier: Apache-2.0
//
// A configuration file. Promises: what is accepted has every value in the range that config.h
// names, and a refusal says where the errors are, in a bounded number of lines.
#include <algorithm>

#include "daemon/config.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

bool IsIn(int64_t value, ConfigRange range) { return value >= range.min && value <= range.max; }

bool IsSocketPath(const std::string& path) {
  return path.starts_with('/') && path.size() <= kMaxSocketPathLength &&
         path.find('\0') == std::string::npos;
}

void CheckPeers(const PeerPolicy& peers) {
  REHOME_PROMISE(peers.uids.size() <= kMaxAllowedIds && peers.gids.size() <= kMaxAllowedIds);
  for (uid_t uid : peers.uids) REHOME_PROMISE(IsIn(uid, kUserIdRange));
  for (gid_t gid : peers.gids) REHOME_PROMISE(IsIn(gid, kUserIdRange));
}

void CheckProfile(const std::string& name, const VmmProfile& profile) {
  REHOME_PROMISE(profile.name == name && name.size() <= kMaxProfileNameLength && !name.empty());
  REHOME_PROMISE(!profile.command.empty() && profile.command.size() <= kMaxCommandArguments);
  REHOME_PROMISE(profile.command.front().starts_with('/'));
  for (const std::string& argument : profile.command) {
    REHOME_PROMISE(argument.size() <= kMaxArgumentBytes);
    REHOME_PROMISE(argument.find('\0') == std::string::npos);
  }
  REHOME_PROMISE(profile.environment.size() <= kMaxEnvironmentEntries);
  for (const auto& [key, value] : profile.environment) {
    REHOME_PROMISE(!key.empty() && key.find('=') == std::string::npos);
    REHOME_PROMISE(value.find('\0') == std::string::npos);
  }
  REHOME_PROMISE(profile.reads_state_formats.size() <= kMaxStateFormats);
  for (uint32_t format : profile.reads_state_formats) {
    REHOME_PROMISE(IsIn(format, kStateFormatRange));
  }
}

void CheckConfig(const DaemonConfig& config) {
  REHOME_PROMISE(config.state_directory.starts_with('/'));
  REHOME_PROMISE(IsSocketPath(config.api_socket) && IsSocketPath(config.agent_socket));
  REHOME_PROMISE(config.api_socket != config.agent_socket);
  CheckPeers(config.api_peers);
  CheckPeers(config.agent_peers);
  REHOME_PROMISE(IsIn(config.link_ioctl, kLinkIoctlRange));
  REHOME_PROMISE(
      IsIn(static_cast<int64_t>(config.concurrent_migrations), kConcurrentMigrationsRange));
  REHOME_PROMISE(IsIn(config.handover_timeout.count(), kHandoverTimeoutMsRange));
  REHOME_PROMISE(IsIn(config.resolve_timeout.count(), kResolveTimeoutMsRange));
  REHOME_PROMISE(IsIn(config.deadline.count(), kMigrationDeadlineMsRange));
  REHOME_PROMISE(IsIn(config.timeouts.agent.count(), kPatienceMsRange));
  REHOME_PROMISE(IsIn(config.timeouts.first_run.count(), kPatienceMsRange));
  REHOME_PROMISE(IsIn(config.timeouts.release.count(), kPatienceMsRange));
  REHOME_PROMISE(IsIn(config.timeouts.exit.count(), kPatienceMsRange));
  REHOME_PROMISE(config.profiles.size() <= kMaxProfiles);
  for (const auto& [name, profile] : config.profiles) CheckProfile(name, profile);
}

constexpr char kFull[] = R"([daemon]
state_directory = "/srv/rehome"
api_socket = "/run/r/api.sock"
agent_socket = "/run/r/agent.sock"
api_allowed_uids = [0, 1000]
api_allowed_gids = [27]
agent_allowed_uids = [107]
agent_allowed_gids = []
kernel = "sim"
link_ioctl = 0xd5
concurrent_migrations = 3
handover_timeout_ms = 40
resolve_timeout_ms = 700
deadline_ms = 60000
agent_timeout_ms = 1500
first_run_timeout_ms = 3000
release_timeout_ms = 250
exit_timeout_ms = 20000
log_level = "warning"
trace = false

[profile.next]
command = ["/usr/bin/vmm", "--incoming"]
environment = { LANG = "C", PATH = "/opt/bin" }
reads_state_formats = [1, 2]

[profile."old-1.0"]
command = ["/usr/bin/vmm-1.0"]
enabled = false
)";

}  // namespace

bool Feed(std::span<const std::byte> input) {
  const auto config = ParseConfig(Input::Text(input), "c.toml");
  if (config.ok()) {
    CheckConfig(*config);
    return true;
  }
  REHOME_PROMISE(ReasonOf(config.status()) == "CONFIG_INVALID");
  REHOME_PROMISE(config.status().message().find("c.toml:") != std::string_view::npos);
  return false;
}

std::vector<Seed> Seeds() {
  return {
      {"full", BytesOfText(kFull)},
      {"empty", BytesOfText("# nothing\n")},
      {"one-profile", BytesOfText("profile.a.command = ['/bin/a']\n")},
      {"kernel-only", BytesOfText("[daemon]\nkernel = \"kvm\"\n")},
  };
}

}  // namespace rehome::fuzz
