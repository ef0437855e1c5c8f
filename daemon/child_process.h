// SPDX-License-Identifier: Apache-2.0
//
// Starting one program with exactly the descriptors and environment that it is given.
#ifndef REHOME_DAEMON_CHILD_PROCESS_H_
#define REHOME_DAEMON_CHILD_PROCESS_H_

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

struct ChildProgram {
  std::vector<std::string> command;      // argv; [0] is an absolute path
  std::vector<std::string> environment;  // NAME=value
  // Descriptor i of the child is a duplicate of fds[i]; it has no others.
  std::vector<BorrowedFd> fds;
};
// More would make no sense; the descriptors are moved about on a small array in the child.
inline constexpr size_t kMaxChildFds = 8;

// From fork to exec, after which the child is killed; longer only if the program is on a file
// system that does not answer. Until then the child has copies of all that this process has open.
inline constexpr std::chrono::milliseconds kExecTimeout{10'000};

// Starts `program` in a session of its own, in directory /, umask 077, with no signal blocked or
// ignored. Returns its pidfd (close-on-exec). UNAVAILABLE / LAUNCH_FAILED names the step that
// failed and its errno, exec in the child included; no process is left then,
// but for one that cannot be killed within kKillTimeout: it stays, and a few pages of ours with it.
// RESOURCE_EXHAUSTED / FD_LIMIT.
//
// The pidfd is made with the process (CLONE_PIDFD), so it cannot be another's. Until exec the child
// runs in our memory (CLONE_VM), beside our threads, and makes nothing but system calls.
absl::StatusOr<UniqueFd> StartChild(const ChildProgram& program,
                                    std::chrono::milliseconds exec_timeout = kExecTimeout);

// From SIGKILL to exit. A process of this kind has no guest memory to tear down; only one that
// hangs in the kernel (exec from a file system that does not answer) takes longer.
inline constexpr std::chrono::milliseconds kKillTimeout{10'000};

// SIGKILL to a child of ours, and its end: returns true when it has been reaped, by whomever, false
// if it is still there after kKillTimeout.
bool KillChild(BorrowedFd pidfd);

}  // namespace rehome

#endif  // REHOME_DAEMON_CHILD_PROCESS_H_
