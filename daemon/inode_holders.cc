// SPDX-License-Identifier: Apache-2.0
#include "daemon/inode_holders.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/proc_files.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr int32_t kInitPid = 1;

// Whether this process has CAP_SYS_PTRACE (include/uapi/linux/capability.h) in effect.
bool HasPtraceCapability() {
  constexpr int kCapSysPtrace = 19;
  absl::StatusOr<std::string> status = ReadProcFile("/proc/self/status");
  if (!status.ok()) return false;
  constexpr std::string_view kField = "\nCapEff:\t";
  const size_t at = status->find(kField);
  if (at == std::string::npos) return false;
  const uint64_t effective = std::strtoull(status->c_str() + at + kField.size(), nullptr, 16);
  return (effective >> kCapSysPtrace & 1) != 0;
}

bool Contains(const std::vector<InodeId>& inodes, const InodeId& inode) {
  return std::find(inodes.begin(), inodes.end(), inode) != inodes.end();
}

// A process that has vanished holds nothing.
absl::Status UnlessGone(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

// The file behind a link of /proc/.../fd, without opening it. AT_STATX_DONT_SYNC: a file of a
// network or FUSE file system that does not answer must not stop the scan (fs/fuse/dir.c,
// fuse_update_get_attr(); nfs_getattr()).
absl::StatusOr<std::optional<InodeId>> FileBehind(const std::string& path) {
  struct statx file = {};
  constexpr int kFlags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
  if (statx(AT_FDCWD, path.c_str(), kFlags, STATX_INO, &file) == 0) {
    return InodeId{.device = makedev(file.stx_dev_major, file.stx_dev_minor),
                   .inode = file.stx_ino};
  }
  if (errno == EACCES || errno == EPERM) {
    return MakeStatus(absl::StatusCode::kPermissionDenied, reason::kProcUnreadable,
                      absl::StrCat(path, ": ", strerror(errno)));
  }
  // Closed or gone meanwhile, or a file that cannot be asked (ESTALE of a dead server): not a
  // guest_memfd or memfd, which can always be asked.
  return std::nullopt;
}

absl::StatusOr<bool> HoldsByFd(const std::string& task, const std::vector<InodeId>& inodes) {
  absl::StatusOr<std::vector<int32_t>> fds = ListNumbers(task + "/fd");
  if (!fds.ok()) {
    if (absl::IsNotFound(fds.status())) return false;
    return fds.status();
  }
  for (int32_t fd : *fds) {
    absl::StatusOr<std::optional<InodeId>> file = FileBehind(absl::StrCat(task, "/fd/", fd));
    if (!file.ok()) return file.status();
    if (file->has_value() && Contains(inodes, **file)) return true;
  }
  return false;
}

struct MappingScan {
  bool any = false;    // the task has an address space
  bool holds = false;  // with one of the inodes in it
};

absl::StatusOr<MappingScan> HoldsByMapping(const std::string& task,
                                           const std::vector<InodeId>& inodes) {
  MappingScan scan;
  absl::Status status = ForEachMapping(task + "/maps", [&](const Mapping& mapping) {
    scan.any = true;
    scan.holds = Contains(inodes, mapping.inode);
    return !scan.holds;
  });
  status = UnlessGone(status);
  if (!status.ok()) return status;
  return scan;
}

// Whether two threads use one table of descriptors. A thread can have its own
// (unshare(CLONE_FILES)), which /proc/PID/fd does not show. If the kernel will not say
// (CONFIG_KCMP): no.
bool ShareFiles(int32_t a, int32_t b) { return syscall(SYS_kcmp, a, b, KCMP_FILES, 0, 0) == 0; }

// "fd", "mapping" or nothing.
absl::StatusOr<std::optional<std::string>> HowHeld(int32_t pid,
                                                   const std::vector<InodeId>& inodes) {
  const std::string process = ProcPath(pid);
  absl::StatusOr<std::vector<int32_t>> tasks = ListNumbers(process + "/task");
  if (!tasks.ok()) {
    if (absl::IsNotFound(tasks.status())) return std::nullopt;
    return tasks.status();
  }
  // All threads share one address space, but one that has exited shows none, and that may be the
  // first one of a process that lives on.
  bool mappings_seen = false;
  for (int32_t tid : *tasks) {
    const std::string task = absl::StrCat(process, "/task/", tid);
    if (tid == pid || !ShareFiles(pid, tid)) {
      absl::StatusOr<bool> by_fd = HoldsByFd(task, inodes);
      if (!by_fd.ok()) return by_fd.status();
      if (*by_fd) return "fd";
    }
    if (mappings_seen) continue;
    absl::StatusOr<MappingScan> scan = HoldsByMapping(task, inodes);
    if (!scan.ok()) return scan.status();
    if (scan->holds) return "mapping";
    mappings_seen = scan->any;
  }
  return std::nullopt;
}

// Whether `pid` is a child of ours that still runs our program: a fork that has not come to exec.
bool IsOurFork(int32_t pid) {
  absl::StatusOr<TaskStat> stat = ReadTaskStat(ProcPath(pid) + "/stat");
  if (!stat.ok() || stat->parent != getpid()) return false;
  absl::StatusOr<std::optional<InodeId>> theirs = FileBehind(ProcPath(pid) + "/exe");
  absl::StatusOr<std::optional<InodeId>> ours = FileBehind("/proc/self/exe");
  return theirs.ok() && ours.ok() && theirs->has_value() && *theirs == *ours;
}

absl::StatusOr<std::optional<std::string>> HowHeldAfterFork(int32_t pid,
                                                            const std::vector<InodeId>& inodes) {
  const auto deadline = std::chrono::steady_clock::now() + kForkSettleTimeout;
  absl::StatusOr<std::optional<std::string>> how = HowHeld(pid, inodes);
  while (how.ok() && how->has_value() && IsOurFork(pid) &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kForkSettlePause);
    how = HowHeld(pid, inodes);
  }
  return how;
}

std::string CommandOf(int32_t pid) {
  absl::StatusOr<TaskStat> stat = ReadTaskStat(ProcPath(pid) + "/stat");
  std::string command = stat.ok() ? stat->command : "";
  for (char& c : command) {
    if (c < 0x20 || c > 0x7e) c = '?';  // a process names itself as it likes
  }
  return command;
}

absl::Status Unreadable(int32_t pid, const absl::Status& status) {
  return MakeStatus(
      absl::StatusCode::kUnknown, reason::kHoldersUnreadable,
      absl::StrCat("process ", pid, " could not be inspected: ", std::string(status.message())));
}

// With CAP_SYS_PTRACE only a security module can forbid to look. Some shield the init process even
// from root; init is trusted with everything on the host anyway, so it alone is left out then. That
// any other process is shielded is not explained away.
bool IsShieldedInit(int32_t pid, const absl::Status& status) {
  return pid == kInitPid && absl::IsPermissionDenied(status) && HasPtraceCapability();
}

bool IsAllowed(int32_t pid, const std::vector<ProcessIdentity>& allowed) {
  return std::any_of(allowed.begin(), allowed.end(), [pid](const ProcessIdentity& process) {
    return process.pid == pid && IsSameProcess(process);
  });
}

}  // namespace

bool IsInitShielded() {
  absl::StatusOr<std::optional<std::string>> how = HowHeld(kInitPid, {});
  return !how.ok() && IsShieldedInit(kInitPid, how.status());
}

absl::StatusOr<std::vector<InodeHolder>> FindInodeHolders(
    const std::vector<InodeId>& inodes, const std::vector<ProcessIdentity>& allowed) {
  absl::StatusOr<std::vector<int32_t>> pids = ListNumbers("/proc");
  if (!pids.ok()) return Unreadable(0, pids.status());
  // With hidepid=2 (proc(5)) others' processes are not listed at all, and a scan would find nobody.
  // Process 1 is never ours and always there.
  if (std::find(pids->begin(), pids->end(), kInitPid) == pids->end()) {
    return MakeStatus(absl::StatusCode::kUnknown, reason::kHoldersUnreadable,
                      "/proc hides processes: process 1 is not listed");
  }
  std::vector<InodeHolder> holders;
  for (int32_t pid : *pids) {
    if (pid == getpid() || IsAllowed(pid, allowed)) continue;
    absl::StatusOr<std::optional<std::string>> how = HowHeldAfterFork(pid, inodes);
    if (!how.ok() && IsShieldedInit(pid, how.status())) continue;
    if (!how.ok()) return Unreadable(pid, how.status());
    if (!how->has_value()) continue;
    holders.push_back({.pid = pid, .command = CommandOf(pid), .how = **how});
    if (holders.size() == kMaxHoldersReported) break;
  }
  return holders;
}

}  // namespace rehome
