// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/child_process.h"
#include "daemon/child_reaper.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/vmm_log.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

class ProcessLauncher final : public Launcher {
 public:
  ProcessLauncher(ProcessLauncherOptions options, std::unique_ptr<ChildReaper> reaper)
      : options_(std::move(options)), reaper_(std::move(reaper)) {}

  absl::StatusOr<LaunchedVmm> Launch(const std::string& profile_name,
                                     const std::string& migration_id) override;
  absl::StatusOr<VmmProfile> Profile(const std::string& name) const override;
  static std::string LogDirectory(const ProcessLauncherOptions& options) {
    return options.state_directory + "/vmm-logs";
  }

 private:
  std::vector<std::string> Environment(const VmmProfile& profile,
                                       const std::string& migration_id) const;

  const ProcessLauncherOptions options_;
  const std::unique_ptr<ChildReaper> reaper_;
};

absl::StatusOr<VmmProfile> ProcessLauncher::Profile(const std::string& name) const {
  const auto found = options_.profiles.find(name);
  if (found != options_.profiles.end()) return found->second;
  return MakeStatus(absl::StatusCode::kNotFound, reason::kProfileNotFound,
                    absl::StrCat("the configuration has no profile \"", name, "\""));
}

std::vector<std::string> ProcessLauncher::Environment(const VmmProfile& profile,
                                                      const std::string& migration_id) const {
  std::map<std::string, std::string> variables = {{"PATH", kDefaultPath}};
  for (const auto& [name, value] : profile.environment) variables[name] = value;
  variables["REHOME_AGENT_FD"] = absl::StrCat(kAgentFd);
  variables["REHOME_AGENT_SOCKET"] = options_.agent_socket;
  variables["REHOME_MIGRATION_ID"] = migration_id;
  std::vector<std::string> environment;
  for (const auto& [name, value] : variables) environment.push_back(absl::StrCat(name, "=", value));
  return environment;
}

absl::StatusOr<LaunchedVmm> ProcessLauncher::Launch(const std::string& profile_name,
                                                    const std::string& migration_id) {
  absl::StatusOr<VmmProfile> profile = Profile(profile_name);
  if (!profile.ok()) return profile.status();
  if (!profile->enabled) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kProfileDisabled,
                      absl::StrCat("profile \"", profile_name, "\" is disabled"));
  }
  absl::StatusOr<UniqueFd> log = OpenVmmLog(LogDirectory(options_), migration_id);
  if (!log.ok()) return log.status();
  const SysResult opened = Uninterrupted([] { return open("/dev/null", O_RDONLY | O_CLOEXEC); });
  const UniqueFd null(static_cast<int>(opened.value));
  if (!opened.ok()) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kLaunchFailed,
                      absl::StrCat("/dev/null: ", strerror(opened.error)));
  }
  absl::StatusOr<SocketPair> connection = CreateSocketPair();
  if (!connection.ok()) return connection.status();
  const ChildProgram program = {
      .command = profile->command,
      .environment = Environment(*profile, migration_id),
      .fds = {null.borrow(), log->borrow(), log->borrow(), connection->second.borrow()}};
  static_assert(kAgentFd == 3, "the place of the connection in the list above");

  absl::StatusOr<UniqueFd> pidfd = StartChild(program);
  if (!pidfd.ok()) return Annotate(pidfd.status(), absl::StrCat("profile ", profile_name));
  // A zombie still has an identity, so the reaper comes after it.
  absl::StatusOr<ProcessIdentity> process = IdentifyProcess(pidfd->borrow());
  absl::Status watched = reaper_->Watch(pidfd->borrow());
  if (process.ok() && watched.ok()) {
    return LaunchedVmm{.pidfd = *std::move(pidfd),
                       .connection = std::move(connection->first),
                       .process = *process};
  }
  KillChild(pidfd->borrow());
  return process.ok() ? watched : process.status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Launcher>> NewProcessLauncher(ProcessLauncherOptions options) {
  absl::Status made = CreateLogDirectory(ProcessLauncher::LogDirectory(options));
  if (!made.ok()) return made;
  absl::StatusOr<std::unique_ptr<ChildReaper>> reaper = ChildReaper::Create();
  if (!reaper.ok()) return reaper.status();
  return std::make_unique<ProcessLauncher>(std::move(options), *std::move(reaper));
}

}  // namespace rehome
