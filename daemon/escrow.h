// SPDX-License-Identifier: Apache-2.0
//
// What the daemon holds of one migration: connections, duplicates of both sides' fds, the handover
// block, the target process. Everything is dropped in one place, CloseMemory(), because a forgotten
// fd pins a dead guest's memory (and its struct kvm: a guest_memfd file holds a reference to its
// VM).
#ifndef REHOME_DAEMON_ESCROW_H_
#define REHOME_DAEMON_ESCROW_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/handover.h"
#include "daemon/launcher.h"
#include "daemon/vmm_link.h"

namespace rehome {

// Used by one driver thread.
struct Escrow {
  std::shared_ptr<VmmLink> source_link;
  std::shared_ptr<VmmLink> target_link;
  // Ours, not the links': a link may be gone while its process must still be killed and proven
  // dead. Invalid: never started, or proven gone by a daemon that took over.
  UniqueFd source_pidfd;
  UniqueFd target_pidfd;
  std::optional<VmDescription> source;
  std::optional<VmDescription> target;
  std::unique_ptr<HandoverBlock> block;
  uint64_t handover_start_ns = 0;  // CLOCK_MONOTONIC, when START was sent

  // Inodes of the guest's memory, each once.
  std::vector<InodeId> MemoryInodes() const;
  uint64_t MemoryBytes() const;
  // Whether all is here that another target needs to go on from the saved state: memory, and with
  // MOVE a VM that has the context or had it.
  bool HoldsGuest(bool moves) const;
  // Closes every fd of guest memory and VMs, and the block. Links and pidfds stay.
  void CloseMemory();
};

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_H_
