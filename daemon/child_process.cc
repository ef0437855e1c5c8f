// SPDX-License-Identifier: Apache-2.0
#include "daemon/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Where descriptors wait before they get their final numbers: above all of these.
constexpr int kFirstFreeFd = 16;
static_assert(kFirstFreeFd > static_cast<int>(kMaxChildFds) + 1);
constexpr size_t kKernelSignalSetBytes = 8;  // _NSIG / 8
constexpr int kLastSignal = 64;
constexpr int kExitNotExecuted = 127;  // as shells have it; seen by nobody

enum class LaunchStep : int32_t { kSession, kDescriptors, kDirectory, kExec };

// Written by the child into a close-on-exec pipe, which an exec that succeeds closes instead.
struct ChildFailure {
  LaunchStep step;
  int32_t error;
};

const char* StepText(LaunchStep step) {
  switch (step) {
    case LaunchStep::kSession:
      return "setsid";
    case LaunchStep::kDescriptors:
      return "its descriptors";
    case LaunchStep::kDirectory:
      return "chdir to /";
    case LaunchStep::kExec:
      return "exec";
  }
  return "?";
}

// Everything that the child needs, prepared before the fork: afterwards nothing may be allocated.
struct ChildPlan {
  std::vector<char*> argv;
  std::vector<char*> environment;
  std::array<int, kMaxChildFds> fds = {};  // all >= kFirstFreeFd
  int fd_count = 0;
  int status_fd = -1;  // >= kFirstFreeFd
};

// ---- in the child: system calls only, no libc that locks, allocates or is instrumented ----

[[noreturn]] void Fail(int status_fd, LaunchStep step) {
  const ChildFailure failure = {.step = step, .error = errno};
  (void)syscall(SYS_write, status_fd, &failure, sizeof(failure));
  for (;;) syscall(SYS_exit_group, kExitNotExecuted);
}

void ResetSignals() {
  // struct kernel_sigaction with everything 0: SIG_DFL. SIGKILL and SIGSTOP refuse, rightly.
  const unsigned long default_action[4] = {};
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    syscall(SYS_rt_sigaction, signal, default_action, nullptr, kKernelSignalSetBytes);
  }
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, kKernelSignalSetBytes);
}

[[noreturn]] void RunChild(const ChildPlan& plan) {
  ResetSignals();
  if (syscall(SYS_setsid) < 0) Fail(plan.status_fd, LaunchStep::kSession);
  // dup3(2) without O_CLOEXEC: these are the ones that stay open.
  for (int i = 0; i < plan.fd_count; ++i) {
    if (syscall(SYS_dup3, plan.fds[i], i, 0) < 0) Fail(plan.status_fd, LaunchStep::kDescriptors);
  }
  const int status_fd = plan.fd_count;
  if (syscall(SYS_dup3, plan.status_fd, status_fd, O_CLOEXEC) < 0) {
    Fail(plan.status_fd, LaunchStep::kDescriptors);
  }
  if (syscall(SYS_close_range, status_fd + 1, ~0U, 0) < 0)
    Fail(status_fd, LaunchStep::kDescriptors);
  if (syscall(SYS_chdir, "/") < 0) Fail(status_fd, LaunchStep::kDirectory);
  syscall(SYS_umask, 077);
  syscall(SYS_execve, plan.argv[0], plan.argv.data(), plan.environment.data());
  Fail(status_fd, LaunchStep::kExec);
}

// ---- in the parent ----

absl::Status LaunchFailed(std::string_view what, int error) {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kLaunchFailed,
                    std::string(what).append(": ").append(strerror(error)));
}

absl::StatusOr<UniqueFd> DuplicateHigh(BorrowedFd fd) {
  UniqueFd high(fcntl(fd.raw(), F_DUPFD_CLOEXEC, kFirstFreeFd));
  if (high.valid()) return high;
  if (errno == EMFILE || errno == EINVAL) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                      "no descriptor left to start a process with");
  }
  return LaunchFailed("dup", errno);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct Pipe {
  UniqueFd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int raw[2] = {-1, -1};
  if (pipe2(raw, O_CLOEXEC) != 0) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                      absl::StrCat("pipe: ", strerror(errno)));
  }
  Pipe pipe = {.read = UniqueFd(raw[0]), .write = UniqueFd(raw[1])};
  absl::StatusOr<UniqueFd> high = DuplicateHigh(pipe.write.borrow());
  if (!high.ok()) return high.status();
  pipe.write = *std::move(high);
  return pipe;
}

absl::StatusOr<UniqueFd> Fork(const ChildPlan& plan) {
  int pidfd = -1;
  clone_args arguments = {};
  arguments.flags = CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<uintptr_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  const long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid == 0) RunChild(plan);
  if (pid < 0) return LaunchFailed("clone3", errno);
  return UniqueFd(pidfd);
}

// OK once the pipe was closed by exec; else what the child wrote.
absl::Status AwaitExec(BorrowedFd status_fd, const std::string& program,
                       std::chrono::milliseconds timeout) {
  pollfd entry = {.fd = status_fd.raw(), .events = POLLIN, .revents = 0};
  int ready = -1;
  do {
    ready = poll(&entry, 1, static_cast<int>(timeout.count()));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return LaunchFailed(absl::StrCat("exec of ", program), ETIMEDOUT);
  ChildFailure failure = {};
  ssize_t count = -1;
  do {
    count = read(status_fd.raw(), &failure, sizeof(failure));
  } while (count < 0 && errno == EINTR);
  if (count == 0) return absl::OkStatus();
  if (count != sizeof(failure)) return LaunchFailed("status pipe", EIO);
  return LaunchFailed(absl::StrCat(StepText(failure.step), " of ", program), failure.error);
}

}  // namespace

absl::StatusOr<UniqueFd> StartChild(const ChildProgram& program,
                                    std::chrono::milliseconds exec_timeout) {
  if (program.command.empty() || program.fds.size() > kMaxChildFds) {
    return LaunchFailed("a command and at most 8 descriptors are needed", EINVAL);
  }
  ChildPlan plan = {.argv = Pointers(program.command),
                    .environment = Pointers(program.environment)};
  std::vector<UniqueFd> fds;
  for (BorrowedFd fd : program.fds) {
    absl::StatusOr<UniqueFd> high = DuplicateHigh(fd);
    if (!high.ok()) return high.status();
    plan.fds[plan.fd_count++] = high->borrow().raw();
    fds.push_back(*std::move(high));
  }
  absl::StatusOr<Pipe> pipe = MakePipe();
  if (!pipe.ok()) return pipe.status();
  plan.status_fd = pipe->write.borrow().raw();

  absl::StatusOr<UniqueFd> pidfd = Fork(plan);
  if (!pidfd.ok()) return pidfd.status();
  pipe->write.Reset();
  absl::Status executed = AwaitExec(pipe->read.borrow(), program.command.front(), exec_timeout);
  if (executed.ok()) return pidfd;
  KillChild(pidfd->borrow());  // it must not stay, not even as a zombie
  return executed;
}

bool KillChild(BorrowedFd pidfd) {
  (void)SendSignal(pidfd, SIGKILL);
  pollfd entry = {.fd = pidfd.raw(), .events = POLLIN, .revents = 0};
  int ready = -1;
  do {
    ready = poll(&entry, 1, static_cast<int>(kKillTimeout.count()));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return false;
  // It has exited, so this does not wait. ECHILD: somebody else was faster.
  siginfo_t info = {};
  (void)waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.raw()), &info,
               WEXITED | WNOHANG);
  return true;
}

}  // namespace rehome
