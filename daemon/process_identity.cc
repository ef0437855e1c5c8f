// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_identity.h"

#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <ctime>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "daemon/proc_files.h"
#include "daemon/reasons.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

// include/uapi/linux/magic.h, 6.9 (newer than Debian 12's headers). Before that a pidfd was a file
// on the one inode of anon_inodefs, whose number identifies nothing.
constexpr long kPidfsMagic = 0x50494446;

absl::StatusOr<uint64_t> PidfdInode(BorrowedFd pidfd) {
  struct statfs file_system = {};
  if (fstatfs(pidfd.raw(), &file_system) != 0) {
    return MakeStatus(absl::StatusCode::kInternal, reason::kProcUnreadable,
                      absl::StrCat("fstatfs of a pidfd: ", strerror(errno)));
  }
  if (file_system.f_type != kPidfsMagic) return 0;
  absl::StatusOr<FileIdentity> file = Identify(pidfd);
  if (!file.ok()) return file.status();
  return file->id.inode;
}

absl::Status ProcessGone(std::string_view what) {
  return MakeStatus(absl::StatusCode::kNotFound, reason::kProcessGone, what);
}

}  // namespace

std::string ProcPath(int32_t pid) { return absl::StrCat("/proc/", pid); }

std::optional<int32_t> ParsePidfdInfo(std::string_view fdinfo) {
  const std::optional<std::string_view> value = FieldOf(fdinfo, "Pid");
  if (!value.has_value()) return std::nullopt;
  int32_t pid = 0;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), pid);
  if (error != std::errc() || end != value->data() + value->size()) return std::nullopt;
  return pid;
}

absl::StatusOr<int32_t> PidOf(BorrowedFd pidfd) {
  absl::StatusOr<std::string> text = ReadProcFile(absl::StrCat("/proc/self/fdinfo/", pidfd.raw()));
  if (absl::IsNotFound(text.status())) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadFd, "not an open descriptor");
  }
  if (!text.ok()) return text.status();
  const std::optional<int32_t> number = ParsePidfdInfo(*text);
  if (!number.has_value()) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadFd, "not a pidfd");
  }
  // -1: reaped. 0: in a PID namespace that ours does not contain; such a process cannot be watched.
  if (*number <= 0) return ProcessGone("the process behind the pidfd has been reaped");
  return *number;
}

absl::StatusOr<ProcessIdentity> IdentifyProcess(BorrowedFd pidfd) {
  absl::StatusOr<int32_t> pid = PidOf(pidfd);
  if (!pid.ok()) return pid.status();
  absl::StatusOr<TaskStat> stat = ReadTaskStat(ProcPath(*pid) + "/stat");
  if (!stat.ok()) return stat.status();
  // A number is not re-used before its process is reaped. The pidfd says that this had not happened
  // when the file had been read, so the file was this process's.
  absl::StatusOr<int32_t> again = PidOf(pidfd);
  if (!again.ok()) return again.status();
  // Not left out if it cannot be had: without it the process would be taken for another one later.
  absl::StatusOr<uint64_t> inode = PidfdInode(pidfd);
  if (!inode.ok()) return inode.status();
  return ProcessIdentity{.pid = *pid, .start_ticks = stat->start_ticks, .pidfd_inode = *inode};
}

ProcessIdentity IdentifySelf() {
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
  absl::StatusOr<ProcessIdentity> self =
      pidfd.ok() ? IdentifyProcess(pidfd->borrow()) : pidfd.status();
  return self.ok() ? *self : ProcessIdentity{.pid = getpid()};
}

absl::StatusOr<bool> IsSameProcess(const ProcessIdentity& process) {
  absl::StatusOr<TaskStat> stat = ReadTaskStat(ProcPath(process.pid) + "/stat");
  if (absl::IsNotFound(stat.status())) return false;
  if (!stat.ok()) return stat.status();
  return stat->start_ticks == process.start_ticks;
}

absl::StatusOr<UniqueFd> FindProcess(const ProcessIdentity& process) {
  if (process.pid == 0) return UniqueFd();  // never started
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(process.pid);
  if (absl::IsNotFound(pidfd.status())) return UniqueFd();
  if (!pidfd.ok()) return pidfd.status();
  absl::StatusOr<ProcessIdentity> found = IdentifyProcess(pidfd->borrow());
  if (absl::IsNotFound(found.status())) return UniqueFd();
  if (!found.ok()) return found.status();
  const bool same = found->pid == process.pid && found->start_ticks == process.start_ticks &&
                    found->pidfd_inode == process.pidfd_inode;
  return same ? *std::move(pidfd) : UniqueFd();
}

bool AwaitExitOf(BorrowedFd pidfd, std::chrono::nanoseconds wait) {
  using std::chrono::nanoseconds;
  using std::chrono::steady_clock;
  constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;
  const auto deadline = steady_clock::now() + wait;
  pollfd entry = {.fd = pidfd.raw(), .events = POLLIN, .revents = 0};
  int ready = -1;
  do {
    const auto left = std::max(nanoseconds(0), nanoseconds(deadline - steady_clock::now()));
    const timespec timeout = {.tv_sec = left.count() / kNanosecondsPerSecond,
                              .tv_nsec = left.count() % kNanosecondsPerSecond};
    ready = ppoll(&entry, 1, &timeout, nullptr);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && (entry.revents & POLLIN) != 0;
}

void ReapIfExited(BorrowedFd pidfd) {
  siginfo_t info = {};
  // ECHILD: not our child, or somebody else was faster.
  (void)Uninterrupted([&] {
    return waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.raw()), &info,
                  WEXITED | WNOHANG);
  });
}

absl::StatusOr<UniqueFd> OpenDeadProcess() {
  int raw = -1;
  clone_args arguments = {};
  arguments.flags = CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<uintptr_t>(&raw);
  arguments.exit_signal = SIGCHLD;
  const long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid == 0) _exit(0);
  if (pid < 0) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kNoStandIn,
                      absl::StrCat("clone3: ", strerror(errno)));
  }
  UniqueFd pidfd(raw);
  siginfo_t info = {};
  while (waitid(P_PIDFD, static_cast<id_t>(raw), &info, WEXITED) != 0 && errno == EINTR) continue;
  return pidfd;
}

}  // namespace rehome
