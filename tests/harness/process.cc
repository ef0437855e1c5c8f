// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"

namespace rehome::harness {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) result.emplace_back(*entry);
  for (const auto& [name, value] : added) result.push_back(absl::StrCat(name, "=", value));
  return result;
}

// As descriptors 3, 4, ... of the child. `high` has duplicates above those numbers, so that none is
// overwritten before its turn, and must live until the child has been started.
absl::Status PassOn(const std::vector<BorrowedFd>& fds, std::vector<UniqueFd>& high,
                    posix_spawn_file_actions_t& actions) {
  const int first = STDERR_FILENO + 1;
  const int beyond = first + static_cast<int>(fds.size());
  for (const BorrowedFd fd : fds) {
    high.emplace_back(fcntl(fd.raw(), F_DUPFD_CLOEXEC, beyond));
    if (!high.back()) return absl::ErrnoToStatus(errno, "a descriptor to pass on");
    posix_spawn_file_actions_adddup2(&actions, high.back().borrow().raw(),
                                     first + static_cast<int>(high.size()) - 1);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Process> Process::Start(const Options& options) {
  std::vector<std::string> argv = options.argv;
  std::vector<std::string> environment = Environment(options.environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  std::vector<UniqueFd> high;
  const absl::Status passed = PassOn(options.inherited, high, actions);
  if (!passed.ok()) return passed;
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  if (!options.log_path.empty()) {
    posix_spawn_file_actions_addopen(&actions, 1, options.log_path.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
  }
  Process process;
  const int error = posix_spawn(&process.pid_, argv[0].c_str(), &actions, nullptr,
                                Pointers(argv).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    process.pid_ = -1;
    return absl::UnavailableError(absl::StrCat("cannot start ", argv[0], ": ", strerror(error)));
  }
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(process.pid_);
  if (!pidfd.ok()) return pidfd.status();
  process.pidfd_ = *std::move(pidfd);
  return process;
}

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    KillAndReap();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
  }
  return *this;
}

Process::~Process() { KillAndReap(); }

bool Process::running() const {
  if (!pidfd_) return false;
  pollfd poll_fd{.fd = pidfd_.borrow().raw(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 0;
}

void Process::Signal(int signal) const {
  if (pidfd_) pidfd_send_signal(pidfd_.borrow().raw(), signal, nullptr, 0);
}

absl::StatusOr<int> Process::WaitExit(std::chrono::milliseconds timeout) {
  if (!pidfd_) return absl::FailedPreconditionError("not running");
  pollfd poll_fd{.fd = pidfd_.borrow().raw(), .events = POLLIN, .revents = 0};
  if (poll(&poll_fd, 1, static_cast<int>(timeout.count())) != 1) {
    return absl::DeadlineExceededError(absl::StrCat("process ", pid_, " still runs"));
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  pidfd_.Reset();
  pid_ = -1;
  return status;
}

void Process::KillAndReap() {
  if (!pidfd_) return;
  Signal(SIGKILL);
  waitpid(pid_, nullptr, 0);
  pidfd_.Reset();
  pid_ = -1;
}

std::string BinaryPath(const std::string& relative) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  for (std::filesystem::path directory = self.parent_path(); directory.has_relative_path();
       directory = directory.parent_path()) {
    std::error_code ignored;
    if (std::filesystem::exists(directory / relative, ignored)) {
      return (directory / relative).string();
    }
  }
  return relative;
}

TempDir::TempDir() {
  // Short: a UNIX socket path holds 107 characters.
  const char* parent = getenv(kTempParentVariable);
  std::string pattern = absl::StrCat(parent == nullptr ? "/tmp" : parent, "/rehome-XXXXXX");
  path_ = mkdtemp(pattern.data()) == nullptr ? "" : pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

std::vector<pid_t> ProcessesNamed(const std::vector<std::string>& names) {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.empty() || !isdigit(static_cast<unsigned char>(name[0]))) continue;
    std::error_code error;
    const std::string exe = std::filesystem::read_symlink(entry.path() / "exe", error).filename();
    if (!error && std::find(names.begin(), names.end(), exe) != names.end()) {
      found.push_back(static_cast<pid_t>(std::stol(name)));
    }
  }
  return found;
}

}  // namespace rehome::harness
