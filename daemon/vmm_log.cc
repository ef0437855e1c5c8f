// SPDX-License-Identifier: Apache-2.0
#include "daemon/vmm_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

constexpr char kSuffix[] = ".log";
// A migration id is "m-" and 16 hex digits; whatever else it may become, it is no path.
constexpr size_t kMaxIdLength = 64;

bool IsPlainName(const std::string& id) {
  return !id.empty() && id.size() <= kMaxIdLength && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  });
}

// The log files of `directory`, the one that was written to longest ago first.
std::vector<std::string> LogsByAge(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(opendir(directory.c_str()), closedir);
  if (open == nullptr) return {};
  std::vector<std::tuple<time_t, long, std::string>> logs;
  while (const dirent* entry = readdir(open.get())) {
    struct stat file = {};
    if (!absl::EndsWith(entry->d_name, kSuffix)) continue;
    if (fstatat(dirfd(open.get()), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) != 0) continue;
    logs.emplace_back(file.st_mtim.tv_sec, file.st_mtim.tv_nsec, entry->d_name);
  }
  std::sort(logs.begin(), logs.end());
  std::vector<std::string> names;
  for (auto& [seconds, nanoseconds, name] : logs) names.push_back(std::move(name));
  return names;
}

void MakeRoom(const std::string& directory) {
  const std::vector<std::string> logs = LogsByAge(directory);
  for (size_t i = 0; i + kMaxVmmLogs <= logs.size(); ++i) {
    unlink(absl::StrCat(directory, "/", logs[i]).c_str());
  }
}

}  // namespace

absl::Status CreateLogDirectory(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kStateDirectoryUnusable,
                    absl::StrCat(directory, ": ", strerror(errno)));
}

absl::StatusOr<UniqueFd> OpenVmmLog(const std::string& directory, const std::string& migration_id) {
  if (!IsPlainName(migration_id)) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadMigrationId,
                      "a migration id that is no name for a file");
  }
  MakeRoom(directory);
  const std::string path = absl::StrCat(directory, "/", migration_id, kSuffix);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY;
  const SysResult log = Uninterrupted([&] { return open(path.c_str(), kFlags, 0600); });
  if (log.ok()) return UniqueFd(static_cast<int>(log.value));
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kLaunchFailed,
                    absl::StrCat("log file ", path, ": ", strerror(log.error)));
}

}  // namespace rehome
