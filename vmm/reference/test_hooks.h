// SPDX-License-Identifier: Apache-2.0
//
// Switches with which tests make a VMM fail at a named place or lie about itself, and benchmarks
// make it leave out a step. They are part of the program, because what is tested is the program;
// without its flags none of them does anything.
#ifndef REHOME_VMM_REFERENCE_TEST_HOOKS_H_
#define REHOME_VMM_REFERENCE_TEST_HOOKS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/reference/blackout_steps.h"

namespace rehome {

// Places in a migration, in the order in which one VMM passes them.
enum class HookPoint : uint8_t {
  kNone,
  // Both.
  kStart,  // nothing done yet: an owner has no guest, a target has not said HELLO
  // Source.
  kDescribe,    // DESCRIBE received
  kArm,         // ARM_SOURCE or ARM_TARGET received
  kPause,       // START received, vCPUs about to be stopped
  kSaved,       // state written, not yet announced
  kAnnounced,   // state announced: the target may claim
  kResume,      // about to run the guest again
  kHandedOver,  // knows that the target runs
  kRelease,     // RELEASE received
  // Target.
  kPrepare,    // PREPARE received
  kPrepared,   // VM built, not yet answered
  kReady,      // knows that the state is complete, verdict not yet CLAIMED
  kClaimed,    // verdict CLAIMED
  kMoving,     // about to MOVE (not reached without MOVE, as the next)
  kMoved,      // MOVE returned
  kRestored,   // every vCPU restored
  kCommitted,  // verdict COMMITTED
  kRunning,    // verdict RUNNING, before the first KVM_RUN
  kFirstRun,   // the first KVM_RUN came back, not yet reported
  kOwner,      // and is reported: an owner from now on
};

// "describe", "handed-over", ...; nullopt if there is no such place.
std::optional<HookPoint> HookPointFromName(std::string_view name);
// Of every place, in order.
std::vector<std::string> HookPointNames();

// What a target VMM claims about itself in its answer to PREPARE; the last is what it does later.
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
  kBinding,       // has its last slot a page higher than it says; only the kernel can know
  kEarlyRun,      // runs the guest before MOVE, with the saved state
};

std::optional<Misbehaviour> MisbehaviourFromName(std::string_view name);
std::vector<std::string> MisbehaviourNames();

struct TestHooks {
  HookPoint die_at = HookPoint::kNone;
  HookPoint hang_at = HookPoint::kNone;
  HookPoint stop_at = HookPoint::kNone;
  std::vector<HookPoint> meet_at;
  std::string meet_socket;
  // Dies, hangs and stops only if it is the one that creates this file: the first of several VMMs
  // with the same command line. "" = always.
  std::string once_file;
  Misbehaviour misbehave = Misbehaviour::kNone;
  BlackoutSteps without;  // as source and as target

  // Called at each place, on whatever thread passes it. Dies as from SIGKILL, stops the calling
  // thread for ever, stops the process as from SIGSTOP, or meets whoever listens at `meet_socket`
  // (UNIX, stream): sends the name of the place and a newline, and goes on when the other end sends
  // something or closes, or when nobody listens.
  void Reach(HookPoint point) const;

 private:
  bool IsMyTurn() const;
  [[noreturn]] static void Die();
  [[noreturn]] static void Hang();
  void Meet(HookPoint point) const;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_TEST_HOOKS_H_
