// SPDX-License-Identifier: Apache-2.0
//
// Proofs that a process cannot run a guest any more, and that nobody else holds its memory.
#ifndef REHOME_DAEMON_FENCE_H_
#define REHOME_DAEMON_FENCE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/child_process.h"
#include "daemon/migration.h"
#include "daemon/process_identity.h"
#include "kvmglue/fd.h"
#include "kvmglue/memory_layout.h"

namespace rehome {

// A child of ours between fork and exec (another migration's target being launched) holds copies of
// everything we hold. FindHolders() looks at it again until it has closed them. That takes a few
// milliseconds, and on two cores with a load of 22 has taken more than a second; taken for a
// foreign holder it would make a migration FAIL that did not. This is how long one search waits for
// such children, all of them together: those that it finds were there when it began, so that the
// launcher has killed by then what hangs.
inline constexpr std::chrono::milliseconds kForkSettleTimeout{12'000};
static_assert(kForkSettleTimeout > kExecTimeout, "or a child that may still exec is a holder");
// Of one FindHolders(): the rest of a search that is under way, and one of its own.
inline constexpr std::chrono::milliseconds kFindForkWait = 2 * kForkSettleTimeout;
static_assert(2 * kFindForkWait < kDefaultDeadline,
              "or a preflight that waits for children leaves no time for the migration");

// Thread-safe.
class Fence {
 public:
  virtual ~Fence() = default;

  // SIGKILL through the pidfd. OK also if the process is gone already. PERMISSION_DENIED with the
  // reason of SendSignal() (kvmglue/fd_passing.h).
  virtual absl::Status Kill(BorrowedFd pidfd) = 0;

  // Waits until no task of the process can enter user or guest mode again: every entry of
  // /proc/PID/task shows PF_EXITING (include/linux/sched.h, 0x4, field 9 of stat) or is a zombie.
  // Its memory may still be torn down (0.05 to 0.1 ms per MiB), which is why this is a proof of its
  // own. It covers the threads of the process; another process that shares its address space
  // (CLONE_VM without CLONE_THREAD) is seen by FindHolders(), which preflight calls for that
  // reason. REQUIRES: Kill() came first. Returns CLOCK_MONOTONIC ns. DEADLINE_EXCEEDED /
  // FENCE_TIMEOUT.
  virtual absl::StatusOr<uint64_t> AwaitTasksStopped(BorrowedFd pidfd,
                                                     const ProcessIdentity& process,
                                                     std::chrono::milliseconds timeout) = 0;

  // Waits until the pidfd is readable (the process has exited; its files and mappings are gone),
  // and reaps it if it is our child. Returns CLOCK_MONOTONIC ns. DEADLINE_EXCEEDED / FENCE_TIMEOUT.
  virtual absl::StatusOr<uint64_t> AwaitExit(BorrowedFd pidfd,
                                             std::chrono::milliseconds timeout) = 0;

  // Who has each of `inodes` open or mapped: all of /proc is read, ourselves included. Those of
  // `allowed` are classed kTarget, ourselves kDaemon. One entry per inode, in the order given.
  // UNKNOWN / HOLDERS_UNREADABLE if a process could not be inspected (no CAP_SYS_PTRACE, or /proc
  // hides processes). What /proc does not show is not seen: descriptors in flight in a socket that
  // nobody reads, or registered with io_uring and closed. Calls of several threads may share one
  // read of /proc, which begins after each of these calls. Waits for children of ours that are
  // about to exec, kFindForkWait at most.
  virtual absl::StatusOr<HolderSearch> FindHolders(const std::vector<InodeId>& inodes,
                                                   const std::vector<ProcessIdentity>& allowed) = 0;
};

// Whether FindHolders() leaves process 1 out, because a security module shields it from us although
// we have CAP_SYS_PTRACE. A proof made where this is true must say so: it covers every process but
// init. (proc_fence.cc)
bool IsInitShielded();

// The real one (proc_fence.cc).
std::unique_ptr<Fence> NewProcFence();

// For MAP strategies: checks in /proc/PID/maps that each slot's [hva, hva + size) maps that slot's
// inode at that slot's offset, shared. FAILED_PRECONDITION / MAPPING_MISMATCH naming the slot;
// NOT_FOUND / PROCESS_GONE; PERMISSION_DENIED / PROC_UNREADABLE.
absl::Status VerifyMappings(BorrowedFd pidfd, const MemoryLayout& layout);

}  // namespace rehome

#endif  // REHOME_DAEMON_FENCE_H_
