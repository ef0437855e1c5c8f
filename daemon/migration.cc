// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration.h"

#include <algorithm>

namespace rehome {

bool IsTerminal(MigrationState state) {
  switch (state) {
    case MigrationState::kPending:
    case MigrationState::kPreparing:
    case MigrationState::kHandingOver:
    case MigrationState::kCompleting:
    case MigrationState::kRollingBack:
      return false;
    case MigrationState::kSucceeded:
    case MigrationState::kFailed:
    case MigrationState::kCancelled:
    case MigrationState::kIndeterminate:
      return true;
  }
  return false;
}

const char* MigrationStateName(MigrationState state) {
  switch (state) {
    case MigrationState::kPending:
      return "PENDING";
    case MigrationState::kPreparing:
      return "PREPARING";
    case MigrationState::kHandingOver:
      return "HANDING_OVER";
    case MigrationState::kCompleting:
      return "COMPLETING";
    case MigrationState::kRollingBack:
      return "ROLLING_BACK";
    case MigrationState::kSucceeded:
      return "SUCCEEDED";
    case MigrationState::kFailed:
      return "FAILED";
    case MigrationState::kCancelled:
      return "CANCELLED";
    case MigrationState::kIndeterminate:
      return "INDETERMINATE";
  }
  return "?";
}

const char* GuestOwnerName(GuestOwner owner) {
  switch (owner) {
    case GuestOwner::kSource:
      return "SOURCE";
    case GuestOwner::kTarget:
      return "TARGET";
    case GuestOwner::kUndecided:
      return "UNDECIDED";
    case GuestOwner::kNobody:
      return "NOBODY";
  }
  return "?";
}

const char* StrategyName(Strategy strategy) {
  switch (strategy) {
    case Strategy::kLinkMove:
      return "LINK_MOVE";
    case Strategy::kMapMove:
      return "MAP_MOVE";
    case Strategy::kLink:
      return "LINK";
    case Strategy::kMap:
      return "MAP";
  }
  return "?";
}

bool InodeSearch::HeldByTarget() const {
  return std::any_of(holders.begin(), holders.end(), [](const InodeHolder& holder) {
    return holder.holder_class == HolderClass::kTarget;
  });
}

std::vector<InodeHolder> HolderSearch::Foreign() const {
  std::vector<InodeHolder> foreign;
  for (const InodeSearch& search : memory) {
    for (const InodeHolder& holder : search.holders) {
      const bool listed =
          std::any_of(foreign.begin(), foreign.end(),
                      [&](const InodeHolder& other) { return other.pid == holder.pid; });
      if (holder.holder_class == HolderClass::kForeign && !listed) foreign.push_back(holder);
    }
  }
  return foreign;
}

bool FenceProof::complete(const std::vector<InodeId>& memory_inodes) const {
  if (!process_exited || memory_inodes.empty() || search.begun_ns < exited_ns) return false;
  return std::all_of(memory_inodes.begin(), memory_inodes.end(), [this](const InodeId& inode) {
    return std::any_of(search.memory.begin(), search.memory.end(), [&](const InodeSearch& found) {
      return found.inode == inode && found.foreign == 0 && found.HeldByTarget();
    });
  });
}

const char* StepName(Step step) {
  switch (step) {
    case Step::kQueued:
      return "QUEUED";
    case Step::kPreflight:
      return "PREFLIGHT";
    case Step::kLaunching:
      return "LAUNCHING";
    case Step::kPreparingTarget:
      return "PREPARING_TARGET";
    case Step::kArming:
      return "ARMING";
    case Step::kHandingOver:
      return "HANDING_OVER";
    case Step::kFirstRun:
      return "FIRST_RUN";
    case Step::kFencing:
      return "FENCING";
    case Step::kAborting:
      return "ABORTING";
    case Step::kDiscardingTarget:
      return "DISCARDING_TARGET";
    case Step::kDone:
      return "DONE";
    case Step::kRecovering:
      return "RECOVERING";
    case Step::kRescuing:
      return "RESCUING";
    case Step::kRescueHandingOver:
      return "RESCUE_HANDING_OVER";
    case Step::kUnresolved:
      return "UNRESOLVED";
  }
  return "?";
}

void NoteFailedAttempt(const Failure& why, Rescue* rescue) {
  std::vector<Failure>& failed = rescue->failed_attempts;
  failed.push_back(why);
  if (failed.size() > kMaxRescueAttempts) failed.erase(failed.begin());
}

}  // namespace rehome
