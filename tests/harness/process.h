// SPDX-License-Identifier: Apache-2.0
//
// A child process that a test, the demo or a benchmark starts and ends.
#ifndef REHOME_TESTS_HARNESS_PROCESS_H_
#define REHOME_TESTS_HARNESS_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::harness {

// Killed and reaped when destroyed. Not thread-safe.
class Process {
 public:
  struct Options {
    std::vector<std::string> argv;                   // [0] is a path
    std::map<std::string, std::string> environment;  // added to our own
    std::string log_path;                            // stdout and stderr go there, appended
    std::vector<BorrowedFd> inherited;               // it gets duplicates, as descriptors 3, 4, ...
  };
  static absl::StatusOr<Process> Start(const Options& options);

  Process() = default;
  Process(Process&& other) noexcept { *this = std::move(other); }
  Process& operator=(Process&& other) noexcept;
  ~Process();

  pid_t pid() const { return pid_; }
  BorrowedFd pidfd() const { return pidfd_.borrow(); }
  bool running() const;  // false once it has exited, reaped or not
  void Signal(int signal) const;
  // Waits for the exit; the wait status (waitpid(2)), or DEADLINE_EXCEEDED.
  absl::StatusOr<int> WaitExit(std::chrono::milliseconds timeout);
  void KillAndReap();

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// A program of the same build, by its place in the tree ("daemon/rehomed"): looked for in every
// directory above this program's own. `relative` itself if it is nowhere there.
std::string BinaryPath(const std::string& relative);

// Names the directory that every TempDir is in; unset: /tmp. RunGuard sets it.
inline constexpr char kTempParentVariable[] = "HARNESS_TEMP_PARENT";

// A fresh directory, removed with everything in it when destroyed.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Pids of every process whose executable has one of `names`; for "nothing is left" assertions.
std::vector<pid_t> ProcessesNamed(const std::vector<std::string>& names);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_PROCESS_H_
