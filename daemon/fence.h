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
#include "daemon/migration.h"
#include "kvmglue/fd.h"
#include "kvmglue/memory_layout.h"

namespace rehome {

// Thread-safe.
class Fence {
 public:
  virtual ~Fence() = default;

  // SIGKILL through the pidfd. OK also if the process is gone already.
  virtual absl::Status Kill(BorrowedFd pidfd) = 0;

  // Waits until no task of the process can enter user or guest mode again: every entry of
  // /proc/PID/task shows PF_EXITING (include/linux/sched.h, 0x4, field 9 of stat) or is a zombie. Its
  // memory may still be torn down (0.05 to 0.1 ms per MiB), which is why this is a proof of its own.
  // REQUIRES: Kill() came first. Returns CLOCK_MONOTONIC ns. DEADLINE_EXCEEDED / FENCE_TIMEOUT.
  virtual absl::StatusOr<uint64_t> AwaitTasksStopped(BorrowedFd pidfd, const ProcessIdentity& process,
                                                     std::chrono::milliseconds timeout) = 0;

  // Waits until the pidfd is readable (the process has exited; its files and mappings are gone), and
  // reaps it if it is our child. Returns CLOCK_MONOTONIC ns. DEADLINE_EXCEEDED / FENCE_TIMEOUT.
  virtual absl::StatusOr<uint64_t> AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout) = 0;

  // Every process beyond `allowed` and ourselves with one of `inodes` open or mapped: all of /proc is
  // read. UNKNOWN / HOLDERS_UNREADABLE if a process could not be inspected (no CAP_SYS_PTRACE).
  virtual absl::StatusOr<std::vector<InodeHolder>> FindHolders(
      const std::vector<InodeId>& inodes, const std::vector<ProcessIdentity>& allowed) = 0;
};

std::unique_ptr<Fence> NewProcFence();

// Identity of the process behind a pidfd (fdinfo "Pid:", /proc/PID/stat field 22). NOT_FOUND /
// PROCESS_GONE once it has been reaped.
absl::StatusOr<ProcessIdentity> IdentifyProcess(BorrowedFd pidfd);

// For MAP strategies: checks in /proc/PID/maps that each slot's [hva, hva + size) maps that slot's
// inode at that slot's offset, shared. FAILED_PRECONDITION / MAPPING_MISMATCH naming the slot.
absl::Status VerifyMappings(BorrowedFd pidfd, const MemoryLayout& layout);

}  // namespace rehome

#endif  // REHOME_DAEMON_FENCE_H_
