// SPDX-License-Identifier: Apache-2.0
#include "daemon/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

// clone(2) by the other name that glibc has for it: ThreadSanitizer puts code of its own around
// clone(), for a child with memory of its own.
extern "C" int __clone(int (*run)(void*), void* stack, int flags, void* argument, ...);

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

// The depth of the child's calls is known, and none of them is libc's.
constexpr size_t kChildStackBytes = 16 * 1024;

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Everything that the child needs, and its stack: has to stay until it has come to exec or is dead.
struct ChildPlan {
  explicit ChildPlan(const ChildProgram& program)
      : command(program.command), environment(program.environment) {}
  ChildPlan(const ChildPlan&) = delete;
  ChildPlan& operator=(const ChildPlan&) = delete;

  std::vector<std::string> command, environment;
  std::vector<char*> argv = Pointers(command);
  std::vector<char*> envp = Pointers(environment);
  // Plain pointers and an array, because operator[] of a container is instrumented code.
  char* const* exec_argv = argv.data();
  char* const* exec_envp = envp.data();
  int fds[kMaxChildFds] = {};  // all >= kFirstFreeFd
  int fd_count = 0;
  int status_fd = -1;  // >= kFirstFreeFd
  alignas(16) char stack[kChildStackBytes];
};

// ---- in the child: beside our threads, in the same memory and with the thread-local variables of
// the one that started it. So system calls only: no libc, whose errno is that thread's, and nothing
// that a sanitizer has instrumented. ----

#define REHOME_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

// The result of the system call, or -errno.
REHOME_IN_CHILD long SystemCall(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result = number;
  register long fourth asm("r10") = d;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(fourth)
               : "rcx", "r11", "memory");
  return result;
}

[[noreturn]] REHOME_IN_CHILD void Fail(int status_fd, LaunchStep step, long result) {
  const ChildFailure failure = {.step = step, .error = static_cast<int32_t>(-result)};
  SystemCall(SYS_write, status_fd, reinterpret_cast<long>(&failure), sizeof(failure));
  for (;;) SystemCall(SYS_exit_group, kExitNotExecuted);
}

REHOME_IN_CHILD void ResetSignals() {
  // struct kernel_sigaction with everything 0: SIG_DFL. SIGKILL and SIGSTOP refuse, rightly.
  const unsigned long default_action[4] = {};
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    SystemCall(SYS_rt_sigaction, signal, reinterpret_cast<long>(default_action), 0,
               kKernelSignalSetBytes);
  }
  const uint64_t none = 0;
  SystemCall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&none), 0,
             kKernelSignalSetBytes);
}

REHOME_IN_CHILD int RunChild(void* opaque) {
  const ChildPlan& plan = *static_cast<const ChildPlan*>(opaque);
  ResetSignals();
  int status_fd = plan.status_fd;
  long result = SystemCall(SYS_setsid);
  if (result < 0) Fail(status_fd, LaunchStep::kSession, result);
  // dup3(2) without O_CLOEXEC: these are the ones that stay open.
  for (int i = 0; i < plan.fd_count; ++i) {
    result = SystemCall(SYS_dup3, plan.fds[i], i, 0);
    if (result < 0) Fail(status_fd, LaunchStep::kDescriptors, result);
  }
  result = SystemCall(SYS_dup3, status_fd, plan.fd_count, O_CLOEXEC);
  if (result < 0) Fail(status_fd, LaunchStep::kDescriptors, result);
  status_fd = plan.fd_count;
  result = SystemCall(SYS_close_range, status_fd + 1, ~0U, 0);
  if (result < 0) Fail(status_fd, LaunchStep::kDescriptors, result);
  result = SystemCall(SYS_chdir, reinterpret_cast<long>("/"));
  if (result < 0) Fail(status_fd, LaunchStep::kDirectory, result);
  SystemCall(SYS_umask, 077);
  result =
      SystemCall(SYS_execve, reinterpret_cast<long>(plan.exec_argv[0]),
                 reinterpret_cast<long>(plan.exec_argv), reinterpret_cast<long>(plan.exec_envp));
  Fail(status_fd, LaunchStep::kExec, result);
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

// The child shares our memory, as after vfork(2): copying the page tables of a daemon of 30 MiB,
// and the faults of all its threads afterwards, cost some milliseconds of each migration. Unlike
// there this thread goes on, so that a program that hangs on its way to exec can be given up.
absl::StatusOr<UniqueFd> StartSharing(ChildPlan* plan) {
  // None of our handlers may run in the child. It lets signals in once it has reset them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  const int pid = __clone(RunChild, plan->stack + sizeof(plan->stack),
                          CLONE_VM | CLONE_PIDFD | SIGCHLD, plan, &pidfd);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return LaunchFailed("clone", error);
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
  auto plan = std::make_unique<ChildPlan>(program);
  std::vector<UniqueFd> fds;
  for (BorrowedFd fd : program.fds) {
    absl::StatusOr<UniqueFd> high = DuplicateHigh(fd);
    if (!high.ok()) return high.status();
    plan->fds[plan->fd_count++] = high->borrow().raw();
    fds.push_back(*std::move(high));
  }
  absl::StatusOr<Pipe> pipe = MakePipe();
  if (!pipe.ok()) return pipe.status();
  plan->status_fd = pipe->write.borrow().raw();

  absl::StatusOr<UniqueFd> pidfd = StartSharing(plan.get());
  if (!pidfd.ok()) return pidfd.status();
  pipe->write.Reset();
  // When the pipe is closed the child runs no more code of ours: exec closes it when there is no
  // way back (fs/exec.c, begin_new_exec()), else death does (kernel/exit.c, exit_files()).
  absl::Status executed = AwaitExec(pipe->read.borrow(), program.command.front(), exec_timeout);
  if (executed.ok()) return pidfd;
  // It must not stay, not even as a zombie. If it cannot be killed, it has its stack for good.
  if (!KillChild(pidfd->borrow())) (void)plan.release();
  return executed;
}

bool KillChild(BorrowedFd pidfd) {
  (void)SendSignal(pidfd, SIGKILL);
  if (!AwaitExitOf(pidfd, kKillTimeout)) return false;
  ReapIfExited(pidfd);
  return true;
}

}  // namespace rehome
