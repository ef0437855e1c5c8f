// SPDX-License-Identifier: Apache-2.0
//
// A process to be fenced: it runs a guest of one vCPU in a VM of its own, all of whose memory it
// has mapped and KVM has in its page tables, and has as many threads as the reference VMM.
#ifndef REHOME_BENCH_FENCE_VICTIM_H_
#define REHOME_BENCH_FENCE_VICTIM_H_

#include <sys/types.h>

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::bench {

enum class VictimCommand : char {
  kStopVcpu = 's',   // the vCPU leaves KVM_RUN, its thread sleeps
  kGiveUpKvm = 'g',  // closes every descriptor of KVM and unmaps its vCPU, after kStopVcpu
  kUnmap = 'u',      // unmaps guest memory
};

// Killed and reaped when destroyed.
class FenceVictim {
 public:
  // Returns once the guest runs and all of its memory is mapped. Forks: REQUIRES that the caller
  // has one thread.
  static absl::StatusOr<FenceVictim> Start(uint64_t memory_mib);
  FenceVictim(FenceVictim&& other) noexcept;
  FenceVictim& operator=(FenceVictim&&) = delete;
  ~FenceVictim();

  pid_t pid() const { return pid_; }
  BorrowedFd pidfd() const { return pidfd_.borrow(); }
  // Returns when it has been done. UNAVAILABLE if the process has ended.
  absl::Status Do(VictimCommand command);
  // How many rounds of its loop the guest has made, read from its memory, of which this process
  // holds a descriptor and a mapping as the daemon holds an escrow: also when the process is gone.
  uint64_t guest_rounds() const;

 private:
  absl::Status MapMemory(int fd);
  FenceVictim(pid_t pid, UniqueFd pidfd, UniqueFd channel)
      : pid_(pid), pidfd_(std::move(pidfd)), channel_(std::move(channel)) {}

  pid_t pid_;
  UniqueFd pidfd_;
  UniqueFd channel_;
  UniqueFd memory_;
  const unsigned char* low_ = nullptr;  // guest memory from address 0, REHOME_GUEST_RESERVED bytes
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FENCE_VICTIM_H_
