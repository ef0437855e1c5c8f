// SPDX-License-Identifier: Apache-2.0
//
// What the daemon concludes from a record and from what it holds, apart from what it does: whether
// a guest can be rescued, with how much time, and from which VM. The effects go by these, and so do
// those of the simulator (docs/simulator.md). Pure.
#ifndef REHOME_DAEMON_RESCUE_RULES_H_
#define REHOME_DAEMON_RESCUE_RULES_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/migration.h"
#include "vmm/agent/handover_block.h"

namespace rehome {

// What there is of a guest in an escrow.
struct HeldParts {
  bool block = false;      // with the saved state
  bool memory = false;     // as the source described it
  bool source_vm = false;  // its descriptor; the VM may be dead
  bool target_vm = false;  // of the latest target, or of one before it
};
// Whether all is here that another target needs to go on from the saved state: memory, and with
// MOVE a VM that may have the context. A source whose VM is dead has it no more.
bool HoldsGuest(const HeldParts& held, bool moves, bool source_vm_dead);

// Whether the block in the escrow is the one of the target on record. Without that of a rescue's
// target nobody can tell whether it ran the guest, and so whether the saved state is history.
bool KnowsVerdict(const Migration& record, bool has_block, bool block_is_rescues);

// Whether the source was out when the verdict was taken from anybody: of steps that are journalled
// before that.
bool WasOutBefore(const Migration& record);

// Whether a daemon that took over knows that no START was sent: it is journalled before.
bool WasBeforeStart(const Migration& record);

// Whether this step ends a living source that has nothing to run: a recovery has found that nobody
// can have the guest again, and has put the proof on record (daemon/recovery_effects.cc).
bool EndsEmptySource(const Migration& record);

// The claim time-out of the target on record, of which the first had `first`. Each attempt of a
// rescue has twice the time of the one before: nobody else can run the guest, and what makes a new
// target late is a host with much to do.
std::chrono::milliseconds ClaimTimeoutOf(const Migration& record, std::chrono::milliseconds first);

// The VMs that may hold a guest's context, the likeliest first; `Vm()` stands for the source's.

// Now that the latest target is dead, which came as far as the verdict `before`. `vm`: its own, if
// there is a descriptor of it.
template <typename Vm>
void NoteWhereContextIs(std::vector<Vm>& context, uint32_t before, std::optional<Vm> vm) {
  if (context.empty()) context.push_back(Vm());
  if (!vm.has_value()) return;
  if (before == REHOME_VERDICT_OPEN) return;  // it never had the right to MOVE
  if (before == REHOME_VERDICT_COMMITTED) context.clear();
  // Moved, or perhaps moved: a VM that nothing was moved into has nothing to take, as the kernel
  // will say.
  context.insert(context.begin(), *std::move(vm));
}

// The same of a target whose verdict is ABORTED and who does not say that it ever claimed: a
// rescue's that lost its daemon before it was told of the state, as a rule. It is tried last, and
// not left out, because the word for it is the dead target's own.
template <typename Vm>
void NoteNeverClaimed(std::vector<Vm>& context, std::optional<Vm> vm) {
  if (context.empty()) context.push_back(Vm());
  if (vm.has_value()) context.push_back(*std::move(vm));
}

// A target could not MOVE from the VM at the front, and said so: another may be the right one.
template <typename Vm>
void NoteRefusal(std::vector<Vm>& context) {
  if (context.size() > 1) context.erase(context.begin());
}

// With a dead source a target that refuses leaves the verdict CLAIMED, whether nothing was moved or
// a MOVE failed in a way that leaves that in doubt. Others are tried first, and its own VM before
// the refused one.
template <typename Vm>
void NoteFailureOfClaimant(std::vector<Vm>& context, Vm vm) {
  if (context.empty()) return;
  std::rotate(context.begin(), context.begin() + 1, context.end());
  context.insert(context.end() - 1, std::move(vm));
}

}  // namespace rehome

#endif  // REHOME_DAEMON_RESCUE_RULES_H_
