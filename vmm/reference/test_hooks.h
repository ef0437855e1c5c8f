// SPDX-License-Identifier: Apache-2.0
//
// Switches with which tests make a VMM fail at a named place or lie about itself. They are part of
// the program, because what is tested is the program; without its flags none of them does anything.
#ifndef REHOME_VMM_REFERENCE_TEST_HOOKS_H_
#define REHOME_VMM_REFERENCE_TEST_HOOKS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rehome {

// Places in a migration, in the order in which one VMM passes them.
enum class HookPoint : uint8_t {
  kNone,
  // Source.
  kDescribe,    // DESCRIBE received
  kArm,         // ARM_SOURCE or ARM_TARGET received
  kPause,       // START received, vCPUs about to be stopped
  kSaved,       // state written, not yet announced
  kResume,      // about to run the guest again
  kHandedOver,  // knows that the target runs
  kRelease,     // RELEASE received
  // Target.
  kPrepare,    // PREPARE received
  kClaimed,    // verdict CLAIMED
  kMoved,      // MOVE returned (not reached without MOVE)
  kRestored,   // every vCPU restored
  kCommitted,  // verdict COMMITTED
  kRunning,    // verdict RUNNING, before the first KVM_RUN
  kFirstRun,   // the first KVM_RUN came back, not yet reported
};

// "describe", "handed-over", ...; nullopt if there is no such place.
std::optional<HookPoint> HookPointFromName(std::string_view name);
// Of every place, in order.
std::vector<std::string> HookPointNames();

// What a target VMM claims about itself in its answer to PREPARE.
enum class Misbehaviour : uint8_t {
  kNone,
  kVmType,        // another VM type
  kVcpuCount,     // one vCPU more
  kLayout,        // its first slot is a page shorter
  kOverlap,       // two slots over each other
  kForeignInode,  // a memory file that is not the source's
  kMissingFd,     // no memory descriptors
  kExtraFd,       // a descriptor more than it has files
  kWrongFd,       // /dev/null for the VM descriptor
};

std::optional<Misbehaviour> MisbehaviourFromName(std::string_view name);
std::vector<std::string> MisbehaviourNames();

struct TestHooks {
  HookPoint die_at = HookPoint::kNone;
  HookPoint hang_at = HookPoint::kNone;
  Misbehaviour misbehave = Misbehaviour::kNone;

  // Called at each place. Dies as from SIGKILL, or stops the calling thread for ever.
  void Reach(HookPoint point) const {
    if (point == die_at) Die();
    if (point == hang_at) Hang();
  }

 private:
  [[noreturn]] static void Die();
  [[noreturn]] static void Hang();
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_TEST_HOOKS_H_
