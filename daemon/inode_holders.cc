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
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

constexpr int32_t kInitPid = 1;

// Whether this process has CAP_SYS_PTRACE (include/uapi/linux/capability.h) in effect.
bool HasPtraceCapability() {
  constexpr int kCapSysPtrace = 19;
  absl::StatusOr<std::string> status = ReadProcFile("/proc/self/status");
  if (!status.ok()) return false;
  const std::optional<std::string_view> value = FieldOf(*status, "CapEff");
  if (!value.has_value()) return false;
  const uint64_t effective = std::strtoull(std::string(*value).c_str(), nullptr, 16);
  return (effective >> kCapSysPtrace & 1) != 0;
}

// A process that has vanished holds nothing.
absl::Status UnlessGone(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

// The file behind the link `name` of `directory` (of a path, with AT_FDCWD; of the descriptor
// itself, if `name` is empty), without opening it. AT_STATX_DONT_SYNC: a file of a network or FUSE
// file system that does not answer must not stop the scan (fs/fuse/dir.c, fuse_update_get_attr();
// nfs_getattr()).
absl::StatusOr<std::optional<InodeId>> FileBehind(int directory, const std::string& name) {
  struct statx file = {};
  constexpr int kFlags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
  const SysResult result =
      Uninterrupted([&] { return statx(directory, name.c_str(), kFlags, STATX_INO, &file); });
  if (result.ok()) {
    return InodeId{.device = makedev(file.stx_dev_major, file.stx_dev_minor),
                   .inode = file.stx_ino};
  }
  const std::string text = absl::StrCat(name, ": ", strerror(result.error));
  if (result.error == EACCES || result.error == EPERM) {
    return MakeStatus(absl::StatusCode::kPermissionDenied, reason::kProcUnreadable, text);
  }
  // That we could not look says nothing about the file.
  if (result.error == ENOMEM) {
    return MakeStatus(absl::StatusCode::kInternal, reason::kProcUnreadable, text);
  }
  // Closed or gone meanwhile, or a file that cannot be asked (ESTALE of a dead server): not a
  // guest_memfd or memfd, which can always be asked.
  return std::nullopt;
}
absl::StatusOr<std::optional<InodeId>> FileBehind(const std::string& path) {
  return FileBehind(AT_FDCWD, path);
}

// What one process holds of the inodes that are searched for: for each of them "fd", "mapping" or
// nothing.
class Finds {
 public:
  // `inodes` must outlive it.
  explicit Finds(const std::vector<InodeId>* inodes) : inodes_(inodes), how_(inodes->size()) {}

  void Add(const InodeId& inode, std::string_view how) {
    for (size_t i = 0; i < inodes_->size(); ++i) {
      if ((*inodes_)[i] == inode && how_[i].empty()) how_[i] = how;
    }
  }
  const std::string& how(size_t i) const { return how_[i]; }
  bool any() const {
    return std::any_of(how_.begin(), how_.end(), [](const auto& how) { return !how.empty(); });
  }

 private:
  const std::vector<InodeId>* inodes_;
  std::vector<std::string> how_;
};

// The kernel also says EACCES of a link whose task is reaped in the middle of the call
// (fs/proc/base.c, proc_fd_access_allowed()). Such a task has closed its files before.
absl::Status UnlessReaped(const std::string& task, const absl::Status& status) {
  if (!absl::IsPermissionDenied(status)) return status;
  return absl::IsNotFound(ReadTaskStat(task + "/stat").status()) ? absl::OkStatus() : status;
}

// The descriptors of one task; `task` is its directory in /proc.
absl::Status AddHeldByFd(int32_t tid, const std::string& task, Finds* finds) {
  const std::string path = task + "/fd";
  // Looked up from here, each costs one step instead of six, and a process can have thousands.
  const absl::StatusOr<UniqueFd> directory = OpenDirectory(path);
  if (!directory.ok()) return UnlessGone(directory.status());
  absl::StatusOr<std::vector<int32_t>> fds = ListNumbers(directory->borrow(), path);
  if (!fds.ok()) return UnlessGone(fds.status());
  const bool ours = tid == getpid();
  for (int32_t fd : *fds) {
    // Ours, of which there are two for each VM, need not be looked up.
    absl::StatusOr<std::optional<InodeId>> file =
        ours ? FileBehind(fd, "") : FileBehind(directory->borrow().raw(), absl::StrCat(fd));
    if (!file.ok()) return UnlessReaped(task, file.status());
    if (file->has_value()) finds->Add(**file, "fd");
  }
  return absl::OkStatus();
}

// Whether the task has an address space that could be looked at.
absl::StatusOr<bool> AddHeldByMapping(const std::string& task, Finds* finds) {
  absl::StatusOr<bool> any = ForEachMappedInode(task + "/maps", [&](const InodeId& inode) {
    finds->Add(inode, "mapping");
    return true;
  });
  if (any.ok()) return any;
  if (absl::Status error = UnlessGone(any.status()); !error.ok()) return error;
  return false;
}

// Whether two threads use one table of descriptors. A thread can have its own
// (unshare(CLONE_FILES)), which /proc/PID/fd does not show. If the kernel will not say
// (CONFIG_KCMP): no.
bool ShareFiles(int32_t a, int32_t b) { return syscall(SYS_kcmp, a, b, KCMP_FILES, 0, 0) == 0; }

absl::StatusOr<Finds> HeldBy(int32_t pid, const std::vector<InodeId>& inodes) {
  Finds finds(&inodes);
  const std::string process = ProcPath(pid);
  absl::StatusOr<std::vector<int32_t>> tasks = ListNumbers(process + "/task");
  if (absl::IsNotFound(tasks.status())) return finds;
  if (!tasks.ok()) return tasks.status();
  // All threads share one address space, but one that has exited shows none, and that may be the
  // first one of a process that lives on.
  bool mappings_seen = false;
  for (int32_t tid : *tasks) {
    // The first thread has its files in the process's directory as well: less to look up.
    const std::string task = tid == pid ? process : absl::StrCat(process, "/task/", tid);
    if (tid == pid || !ShareFiles(pid, tid)) {
      if (absl::Status status = AddHeldByFd(tid, task, &finds); !status.ok()) return status;
    }
    if (mappings_seen) continue;
    absl::StatusOr<bool> seen = AddHeldByMapping(task, &finds);
    if (!seen.ok()) return seen.status();
    mappings_seen = *seen;
  }
  return finds;
}

// Whether `pid` is a child of ours that still runs our program: a fork that has not come to exec.
bool IsOurFork(int32_t pid) {
  absl::StatusOr<TaskStat> stat = ReadTaskStat(ProcPath(pid) + "/stat");
  if (!stat.ok() || stat->parent != getpid()) return false;
  absl::StatusOr<std::optional<InodeId>> theirs = FileBehind(ProcPath(pid) + "/exe");
  absl::StatusOr<std::optional<InodeId>> ours = FileBehind("/proc/self/exe");
  return theirs.ok() && ours.ok() && theirs->has_value() && *theirs == *ours;
}

// `settled`: when no fork of ours is waited for any more.
absl::StatusOr<Finds> HeldAfterFork(int32_t pid, const std::vector<InodeId>& inodes,
                                    steady_clock::time_point settled) {
  absl::StatusOr<Finds> finds = HeldBy(pid, inodes);
  // We are no fork of ours, and have more descriptors than anybody.
  if (pid == getpid()) return finds;
  while (finds.ok() && finds->any()) {
    const bool waits = IsOurFork(pid) && steady_clock::now() < settled;
    if (waits) std::this_thread::sleep_for(kForkSettlePause);
    // Once more in any case: it can have come to exec between the two looks.
    finds = HeldBy(pid, inodes);
    if (!waits) break;
  }
  return finds;
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

absl::StatusOr<HolderClass> ClassOf(int32_t pid, const std::vector<ProcessIdentity>& allowed) {
  if (pid == getpid()) return HolderClass::kDaemon;
  for (const ProcessIdentity& process : allowed) {
    if (process.pid != pid) continue;
    absl::StatusOr<bool> same = IsSameProcess(process);
    if (!same.ok()) return same.status();
    if (*same) return HolderClass::kTarget;
  }
  return HolderClass::kForeign;
}

// The listed ones are the wanted ones first, then foreign ones, as far as there is room.
void AddHolder(InodeHolder holder, InodeSearch* search) {
  const bool foreign = holder.holder_class == HolderClass::kForeign;
  if (foreign) ++search->foreign;
  std::vector<InodeHolder>& listed = search->holders;
  const auto first_foreign = std::find_if(listed.begin(), listed.end(), [](const auto& other) {
    return other.holder_class == HolderClass::kForeign;
  });
  listed.insert(foreign ? listed.end() : first_foreign, std::move(holder));
  if (listed.size() > kMaxHoldersListed) listed.pop_back();
}

// `first` is where the query's inodes begin among those that were looked for.
absl::Status AddFinds(int32_t pid, const std::string& command, const HolderQuery& query,
                      const Finds& finds, size_t first, HolderSearch* search) {
  std::optional<HolderClass> holder_class;
  for (size_t i = 0; i < search->memory.size(); ++i) {
    if (finds.how(first + i).empty()) continue;
    if (!holder_class.has_value()) {
      absl::StatusOr<HolderClass> found = ClassOf(pid, query.allowed);
      if (!found.ok()) return found.status();
      holder_class = *found;
    }
    AddHolder({pid, command, finds.how(first + i), *holder_class}, &search->memory[i]);
  }
  return absl::OkStatus();
}

std::vector<HolderSearch> NewSearches(const std::vector<HolderQuery>& queries) {
  std::vector<HolderSearch> searches(queries.size());
  const uint64_t now = rehome_monotonic_ns();
  for (size_t i = 0; i < queries.size(); ++i) {
    searches[i].begun_ns = now;
    for (const InodeId& inode : queries[i].inodes) searches[i].memory.push_back({.inode = inode});
  }
  return searches;
}

}  // namespace

bool IsInitShielded() {
  const absl::Status status = HeldBy(kInitPid, {}).status();
  return !status.ok() && IsShieldedInit(kInitPid, status);
}

absl::StatusOr<std::vector<HolderSearch>> FindInodeHolders(
    const std::vector<HolderQuery>& queries) {
  const steady_clock::time_point settled = steady_clock::now() + kForkSettleTimeout;
  std::vector<HolderSearch> searches = NewSearches(queries);
  std::vector<InodeId> inodes;
  for (const HolderQuery& query : queries) {
    inodes.insert(inodes.end(), query.inodes.begin(), query.inodes.end());
  }
  absl::StatusOr<std::vector<int32_t>> pids = ListNumbers("/proc");
  if (!pids.ok()) return Unreadable(0, pids.status());
  // With hidepid=2 (proc(5)) others' processes are not listed at all, and a scan would find nobody.
  // Process 1 is never ours and always there.
  if (std::find(pids->begin(), pids->end(), kInitPid) == pids->end()) {
    return MakeStatus(absl::StatusCode::kUnknown, reason::kHoldersUnreadable,
                      "/proc hides processes: process 1 is not listed");
  }
  for (int32_t pid : *pids) {
    absl::StatusOr<Finds> finds = HeldAfterFork(pid, inodes, settled);
    if (!finds.ok() && IsShieldedInit(pid, finds.status())) {
      for (HolderSearch& search : searches) search.init_shielded = true;
      continue;
    }
    if (!finds.ok()) return Unreadable(pid, finds.status());
    if (!finds->any()) continue;
    // Classed after the look: who is the expected process now was it all the time.
    const std::string command = CommandOf(pid);
    size_t first = 0;
    for (size_t i = 0; i < queries.size(); ++i) {
      absl::Status added = AddFinds(pid, command, queries[i], *finds, first, &searches[i]);
      if (!added.ok()) return Unreadable(pid, added);
      first += queries[i].inodes.size();
    }
  }
  return searches;
}

}  // namespace rehome
