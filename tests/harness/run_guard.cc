// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/run_guard.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <cerrno>
#include <chrono>
#include <filesystem>

#include "kvmglue/fd_passing.h"
#include "tests/harness/eventually.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

// For what was killed to be gone: on a machine with ten times the work that it can do, a VM has
// taken more than 10 s.
constexpr std::chrono::milliseconds kGone{60'000};
// Longer together than a fork takes until its exec names the directory.
constexpr int kEmptyLooks = 20;

bool BelongsTo(pid_t pid, const std::string& directory) {
  return EnvironmentVariable(pid, kHostVariable).starts_with(directory + "/");
}

// False: nobody was there any more.
bool KillAllOf(const std::string& directory) {
  bool any = false;
  for (const pid_t pid : AllProcesses()) {
    if (!BelongsTo(pid, directory)) continue;
    const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
    // Looked at again behind the pidfd, which cannot change its mind about who it is.
    if (!pidfd.ok() || !BelongsTo(pid, directory)) continue;
    pidfd_send_signal(pidfd->borrow().raw(), SIGKILL, nullptr, 0);
    any = true;
  }
  return any;
}

// Whoever waits for the end of the run's output, or signals its terminal, does not mean the guard.
void StandAside() {
  setsid();
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, stream);
  close(null);
}

[[noreturn]] void Guard(const UniqueFd& run, const std::string& directory) {
  StandAside();
  char byte;
  while (read(run.borrow().raw(), &byte, 1) < 0 && errno == EINTR) {
  }
  // Again, for who was just being started: nobody has to be there at several looks in a row.
  int empty_looks = 0;
  Eventually(kGone, [&] {
    empty_looks = KillAllOf(directory) ? 0 : empty_looks + 1;
    return empty_looks >= kEmptyLooks;
  });
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  _exit(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunGuard>> RunGuard::Start() {
  std::unique_ptr<RunGuard> started(new RunGuard);
  if (started->directory().empty()) return absl::UnavailableError("no temporary directory");
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const UniqueFd run(ends[0]);
  started->alive_ = UniqueFd(ends[1]);
  const pid_t guard = fork();
  if (guard < 0) return absl::ErrnoToStatus(errno, "fork");
  if (guard == 0) {
    started->alive_.Reset();
    Guard(run, started->directory());
  }
  started->guard_ = guard;
  setenv(kTempParentVariable, started->directory().c_str(), /*replace=*/1);
  return started;
}

RunGuard::~RunGuard() {
  if (guard_ < 0) return;
  unsetenv(kTempParentVariable);
  alive_.Reset();
  waitpid(guard_, nullptr, 0);
}

}  // namespace rehome::harness
