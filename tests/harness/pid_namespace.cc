// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/pid_namespace.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace rehome::harness {
namespace {

constexpr int kNoNamespace = 125;

int AwaitStatus(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The parent of process 1, which itself is in the namespace around.
int RunInside(const std::function<int()>& body) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) return kNoNamespace;
  const pid_t first = fork();
  if (first < 0) return kNoNamespace;
  if (first > 0) return AwaitStatus(first);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mount("", "/", "", MS_REC | MS_PRIVATE, "") != 0 ||
      mount("proc", "/proc", "proc", 0, "") != 0) {
    return kNoNamespace;
  }
  return body();
}

}  // namespace

std::string WhyNoPidNamespace() {
  const absl::StatusOr<pid_t> child = ForkIntoPidNamespace([] { return 0; });
  if (!child.ok()) return std::string(child.status().message());
  return AwaitStatus(*child) == 0 ? "" : "no PID namespace with a /proc can be made here";
}

absl::StatusOr<pid_t> ForkIntoPidNamespace(const std::function<int()>& body) {
  fflush(stdout);
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork");
  if (child > 0) return child;
  const int status = RunInside(body);
  fflush(stdout);
  _exit(status);
}

}  // namespace rehome::harness
