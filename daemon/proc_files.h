// SPDX-License-Identifier: Apache-2.0
//
// Reading /proc: whole small files, directories of numbers, and the line formats that proofs are
// made of. A process may vanish between any two calls; that is "gone", never an error of ours.
#ifndef REHOME_DAEMON_PROC_FILES_H_
#define REHOME_DAEMON_PROC_FILES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// A stat, comm or fdinfo file is far below one page; anything longer is cut off.
inline constexpr size_t kMaxProcFileBytes = 4096;

// The file's first kMaxProcFileBytes. NOT_FOUND / PROCESS_GONE (ENOENT, ESRCH), PERMISSION_DENIED /
// PROC_UNREADABLE (EACCES, EPERM), RESOURCE_EXHAUSTED / FD_LIMIT, else INTERNAL / PROC_UNREADABLE.
absl::StatusOr<std::string> ReadProcFile(const std::string& path);

// The entries of a directory whose names are numbers, in the order of the kernel; others are left
// out. Errors as above.
absl::StatusOr<std::vector<int32_t>> ListNumbers(const std::string& path);
// To be listed and to be looked up from. Errors as above.
absl::StatusOr<UniqueFd> OpenDirectory(const std::string& path);
// The same as above, of a directory that is open and has not been read; `path` is for messages.
absl::StatusOr<std::vector<int32_t>> ListNumbers(BorrowedFd directory, const std::string& path);

// The value of the line "NAME:\tVALUE" in a status or fdinfo file (proc(5)), without blanks before
// it; of the first one, should there be two. nullopt if there is none, or if it is cut off. The
// file's first line is none: in a status file that is the name that the process gave itself.
std::optional<std::string_view> FieldOf(std::string_view text, std::string_view name);

// The fields of /proc/PID/stat and /proc/PID/task/TID/stat that are used here (proc(5)).
struct TaskStat {
  std::string command;        // 2, without parentheses
  char state = 0;             // 3: R, S, D, Z, X, ...
  int32_t parent = 0;         // 4
  uint32_t flags = 0;         // 9: PF_* of include/linux/sched.h
  uint32_t thread_count = 0;  // 20
  uint64_t start_ticks = 0;   // 22
};
// nullopt if the line is not one of these files. The command may contain spaces and parentheses.
std::optional<TaskStat> ParseTaskStat(std::string_view line);

// ParseTaskStat() of a file. Errors as ReadProcFile(); INTERNAL / PROC_UNREADABLE if it makes no
// sense.
absl::StatusOr<TaskStat> ReadTaskStat(const std::string& path);

// One line of /proc/PID/maps (fs/proc/task_mmu.c, show_map_vma()).
struct Mapping {
  uint64_t begin = 0, end = 0;  // [begin, end)
  bool shared = false;
  uint64_t offset = 0;  // of `begin`, in bytes into the file
  InodeId inode;        // {0, 0} for anonymous memory
  friend bool operator==(const Mapping&, const Mapping&) = default;
};
std::optional<Mapping> ParseMapping(std::string_view line);

// Calls `visit` for each mapping in `path` (a maps file) until it returns false. The file is read
// in pieces and never held as a whole: a process can have 65530 mappings and more. Errors as above.
absl::Status ForEachMapping(const std::string& path,
                            const std::function<bool(const Mapping&)>& visit);

// What the two functions below call for each mapping of a file; false ends them.
using VisitInode = std::function<bool(const InodeId&)>;

// Calls `visit` with the inode of each mapping of a file in `path` (a maps file); false: the task
// has no address space to look at. By ForEachMapping(), or, where the kernel can be asked without
// text (PROCMAP_QUERY, Linux 6.11), by that, which costs less. Errors as above.
absl::StatusOr<bool> ForEachMappedInode(const std::string& path, const VisitInode& visit);
// The same by text alone, for older kernels.
absl::StatusOr<bool> ForEachMappedInodeByText(const std::string& path, const VisitInode& visit);

}  // namespace rehome

#endif  // REHOME_DAEMON_PROC_FILES_H_
