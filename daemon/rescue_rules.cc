// SPDX-License-Identifier: Apache-2.0
#include "daemon/rescue_rules.h"

namespace rehome {

bool HoldsGuest(const HeldParts& held, bool moves, bool source_vm_dead) {
  if (!held.block || !held.memory) return false;
  return !moves || (held.source_vm && !source_vm_dead) || held.target_vm;
}

bool KnowsVerdict(const Migration& record, bool has_block, bool block_is_rescues) {
  if (!has_block) return false;
  const Rescue& rescue = record.rescue;
  return rescue.attempts == 0 || record.target == rescue.dead_target || block_is_rescues;
}

bool WasOutBefore(const Migration& record) {
  if (record.rescue.attempts > 0) return true;
  return record.interrupted_step == Step::kRescuing ||
         record.interrupted_step == Step::kRescueHandingOver;
}

bool WasBeforeStart(const Migration& record) {
  if (!record.interrupted_step.has_value()) return false;
  switch (*record.interrupted_step) {
    case Step::kQueued:
    case Step::kPreflight:
    case Step::kLaunching:
    case Step::kPreparingTarget:
    case Step::kArming:
      return true;
    case Step::kHandingOver:
    case Step::kFirstRun:
    case Step::kFencing:
    case Step::kAborting:
    case Step::kDiscardingTarget:
    case Step::kDone:
    case Step::kRecovering:
    case Step::kRescuing:
    case Step::kRescueHandingOver:
    case Step::kUnresolved:
      return false;
  }
  return false;
}

bool EndsEmptySource(const Migration& record) {
  const FenceProof& fence = record.fence;
  return record.step == Step::kDiscardingTarget && record.owner == GuestOwner::kNobody &&
         fence.kernel_vm_dead && fence.source.pid != 0 && fence.source == record.source;
}

std::chrono::milliseconds ClaimTimeoutOf(const Migration& record, std::chrono::milliseconds first) {
  return first * (1 << std::min(record.rescue.attempts, kMaxRescueAttempts));
}

}  // namespace rehome
