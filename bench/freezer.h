// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_FREEZER_H_
#define REHOME_BENCH_FREEZER_H_

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rehome::bench {

// A control group (cgroup2) of its own around one process, to freeze it. Thawed, emptied into the
// root and removed when destroyed.
class Freezer {
 public:
  // NOT_FOUND: no cgroup2 is mounted. Errors of making the group and of moving the process there.
  static absl::StatusOr<Freezer> Around(pid_t pid);
  Freezer(Freezer&& other) noexcept;
  Freezer& operator=(Freezer&&) = delete;
  ~Freezer();

  // Returns once the kernel says that all of it is frozen. DEADLINE_EXCEEDED.
  absl::Status Freeze(std::chrono::milliseconds timeout);

 private:
  Freezer(std::string root, std::string path, pid_t pid)
      : root_(std::move(root)), path_(std::move(path)), pid_(pid) {}

  std::string root_;
  std::string path_;  // "": moved from
  pid_t pid_;
};

// Where cgroup2 is mounted, by the text of /proc/mounts.
std::optional<std::string> Cgroup2Mount(std::string_view mounts);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FREEZER_H_
