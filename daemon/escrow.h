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
#include <string>
#include <vector>

#include "daemon/handover.h"
#include "daemon/launcher.h"
#include "daemon/migration.h"
#include "daemon/migration_trace.h"
#include "daemon/trace_area.h"
#include "daemon/vmm_link.h"

namespace rehome {

// A VM that may hold the guest's context.
struct ContextVm {
  UniqueFd vm;  // of a dead target; invalid: the source's, which is in Escrow::source
  // Its guest_memfd files. A binding ends with the last descriptor of its file, and MOVE compares
  // bindings (kernel-abi: kvm_gmem_release).
  std::vector<UniqueFd> memory;
};

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
  // `block` is that of a rescue's target.
  bool block_is_rescues = false;
  // Then, the one that has the state which the source saved. Null if only `block` is left of them.
  std::unique_ptr<HandoverBlock> saved;
  // With MOVE, once a rescue has begun: VMs that may hold the guest's context, the likeliest first.
  std::vector<ContextVm> context;
  // The latest target is proven dead, and `context` takes account of how far it came.
  bool target_settled = false;
  // What the source said of a guest that ended by itself there (GuestEnded()).
  std::optional<std::string> guest_ended;
  // What the source said when it took the guest back (WhyResumed()).
  std::optional<std::string> resumed;
  uint64_t handover_start_ns = 0;  // CLOCK_MONOTONIC, when START was sent
  // Of a migration taken over: nothing of it was with the service manager, and what was there could
  // be told apart.
  bool store_was_empty = false;
  // The manager may still have something of it that we could not tell apart, or not look at.
  bool store_was_unread = false;
  // What was lent to whom, for the trace; null: nothing. No guest memory, so CloseMemory() leaves
  // it.
  std::unique_ptr<TraceArea> source_trace;
  std::unique_ptr<TraceArea> target_trace;
  std::vector<TraceStep> trace_steps;

  // Inodes of the guest's memory, each once.
  std::vector<InodeId> MemoryInodes() const;
  uint64_t MemoryBytes() const;
  // As HoldsGuest() of rescue_rules.h.
  bool HoldsGuest(bool moves, bool source_vm_dead) const;
  // As KnowsVerdict() of rescue_rules.h.
  bool KnowsVerdict(const Migration& record) const;
  // The block that has the saved state. REQUIRES: block.
  const HandoverBlock& StateBlock() const { return saved != nullptr ? *saved : *block; }
  // As HandoverBlock::Phases(); what the source stamped comes from its own block. All zero without
  // a block.
  PhaseTimes Phases(uint64_t not_before_ns) const;
  // Closes every fd of guest memory and VMs, and the block. Links and pidfds stay.
  void CloseMemory();
};

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_H_
