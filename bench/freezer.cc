// SPDX-License-Identifier: Apache-2.0
#include "bench/freezer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvmglue/fd.h"

namespace rehome::bench {
namespace {

// cgroup.events has two lines.
constexpr size_t kMaxEvents = 256;

absl::Status Write(const std::string& path, const std::string& text) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file &&
      write(file.borrow().raw(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, path);
}

}  // namespace

std::optional<std::string> Cgroup2Mount(std::string_view mounts) {
  const std::string text(mounts);
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() > 2 && fields[2] == "cgroup2") return fields[1];
  }
  return std::nullopt;
}

absl::StatusOr<Freezer> Freezer::Around(pid_t pid) {
  std::ifstream file("/proc/mounts");
  const std::string mounts(std::istreambuf_iterator<char>(file), {});
  const std::optional<std::string> root = Cgroup2Mount(mounts);
  if (!root) return absl::NotFoundError("no cgroup2 is mounted");
  const std::string path = absl::StrCat(*root, "/rehome-bench-", pid);
  if (mkdir(path.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, path);
  Freezer freezer(*root, path, pid);
  absl::Status status = Write(path + "/cgroup.procs", absl::StrCat(pid));
  if (!status.ok()) return status;
  return freezer;
}

Freezer::Freezer(Freezer&& other) noexcept
    : root_(std::move(other.root_)), path_(std::exchange(other.path_, "")), pid_(other.pid_) {}

Freezer::~Freezer() {
  if (path_.empty()) return;
  // What fails here leaves an empty group, at worst.
  Write(path_ + "/cgroup.freeze", "0").IgnoreError();
  Write(root_ + "/cgroup.procs", absl::StrCat(pid_)).IgnoreError();
  rmdir(path_.c_str());
}

absl::Status Freezer::Freeze(std::chrono::milliseconds timeout) {
  const UniqueFd events(open((path_ + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!events) return absl::ErrnoToStatus(errno, path_);
  if (absl::Status status = Write(path_ + "/cgroup.freeze", "1"); !status.ok()) return status;
  const auto end = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    std::array<char, kMaxEvents> text;
    const ssize_t size = pread(events.borrow().raw(), text.data(), text.size(), 0);
    if (size < 0) return absl::ErrnoToStatus(errno, path_);
    const std::string_view seen(text.data(), static_cast<size_t>(size));
    if (seen.find("frozen 1") != std::string_view::npos) return absl::OkStatus();
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    // The kernel says with POLLPRI that the file has changed since it was read.
    pollfd entry = {.fd = events.borrow().raw(), .events = POLLPRI, .revents = 0};
    if (left.count() <= 0 || poll(&entry, 1, static_cast<int>(left.count())) == 0) {
      return absl::DeadlineExceededError("the group does not freeze");
    }
  }
}

}  // namespace rehome::bench
