// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/leftovers.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

constexpr int kLookMs = 10;
constexpr char kPidfd[] = "anon_inode:[pidfd]";

bool Contains(const std::vector<pid_t>& pids, pid_t pid) {
  return std::find(pids.begin(), pids.end(), pid) != pids.end();
}

// The logs are kept on purpose, a bounded number of them (daemon/vmm_log.h); so are SQLite's side
// files, which come and go.
bool IsKept(const std::string& path) {
  return path.find("/vmm-logs") != std::string::npos || path.ends_with("-wal") ||
         path.ends_with("-shm") || path.ends_with("-journal");
}

std::vector<std::string> FilesOf(const HostUnderTest& host) {
  std::vector<std::string> files;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(host.directory(), ignored)) {
    if (!IsKept(entry.path().string())) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> HolderSentences(const std::vector<InodeId>& inodes,
                                         const std::vector<pid_t>& allowed) {
  std::vector<std::string> found;
  for (const Holder& holder : HoldersOf(inodes)) {
    if (Contains(allowed, holder.pid)) continue;
    found.push_back(absl::StrCat("process ", holder.pid, " (", holder.executable,
                                 ") holds guest memory: ", holder.how));
  }
  return found;
}

std::vector<std::string> LookOnce(HostUnderTest& host, const Footprint& before,
                                  const std::vector<pid_t>& vmms,
                                  const std::vector<InodeId>& inodes) {
  std::vector<std::string> found = HolderSentences(inodes, vmms);
  for (const pid_t pid : host.Processes()) {
    if (pid == host.daemon().pid() || Contains(vmms, pid)) continue;
    found.push_back(absl::StrCat("process ", pid, " (", ExecutableName(pid), ")"));
  }
  for (const pid_t pid : ChildrenOf(host.daemon().pid())) {
    if (!Contains(vmms, pid) && EnvironmentVariable(pid, kHostVariable).empty()) {
      found.push_back(absl::StrCat("process ", pid, ", dead and not reaped by the daemon"));
    }
  }
  const absl::StatusOr<Footprint> now = FootprintOf(host);
  if (!now.ok()) {
    found.push_back(absl::StrCat("the daemon: ", now.status().ToString()));
    return found;
  }
  for (const auto& [target, count] : now->daemon_descriptors) {
    const auto earlier = before.daemon_descriptors.find(target);
    size_t expected = earlier == before.daemon_descriptors.end() ? 0 : earlier->second;
    if (target == kPidfd) expected += now->daemon_children - before.daemon_children;
    if (count > expected) {
      found.push_back(absl::StrCat(count - expected, " descriptor of the daemon: ", target));
    }
  }
  for (const std::string& file : now->files) {
    if (!std::binary_search(before.files.begin(), before.files.end(), file)) {
      found.push_back(absl::StrCat("file ", file));
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<Footprint> FootprintOf(HostUnderTest& host) {
  absl::StatusOr<std::map<std::string, size_t>> descriptors = OpenDescriptors(host.daemon().pid());
  if (!descriptors.ok()) return descriptors.status();
  return Footprint{.daemon_descriptors = *std::move(descriptors),
                   .daemon_children = ChildrenOf(host.daemon().pid()).size(),
                   .files = FilesOf(host)};
}

std::vector<std::string> FindLeftovers(HostUnderTest& host, const Footprint& before,
                                       const std::vector<pid_t>& vmms,
                                       const std::vector<InodeId>& inodes,
                                       std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  // What is left stays; what one look alone sees was in use at that moment.
  std::vector<std::string> previous;
  while (true) {
    std::vector<std::string> found = LookOnce(host, before, vmms, inodes);
    if (found.empty()) return found;
    if (std::chrono::steady_clock::now() >= deadline && !previous.empty()) {
      std::erase_if(found, [&previous](const std::string& what) {
        return std::find(previous.begin(), previous.end(), what) == previous.end();
      });
      return found;
    }
    previous = std::move(found);
    poll(nullptr, 0, kLookMs);
  }
}

std::vector<std::string> FindRemains(HostUnderTest& host, const std::vector<InodeId>& inodes) {
  std::vector<std::string> found = HolderSentences(inodes, {});
  for (const pid_t pid : host.Processes()) {
    found.push_back(absl::StrCat("process ", pid, " (", ExecutableName(pid), ")"));
  }
  for (const std::string& socket : {host.api_socket(), host.agent_socket()}) {
    if (access(socket.c_str(), F_OK) == 0) found.push_back(absl::StrCat("socket ", socket));
  }
  return found;
}

}  // namespace rehome::harness
