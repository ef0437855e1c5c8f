// SPDX-License-Identifier: Apache-2.0
//
// What this VMM does to keep the blackout short and can leave out, so that a benchmark shows what
// it is worth (docs/blackout.md). Each is done in one way only: without it something is done later,
// one after the other, or once more. That page tables are made in advance is switched off by
// --populate=0 and --warm-ms=0.
#ifndef REHOME_VMM_REFERENCE_BLACKOUT_STEPS_H_
#define REHOME_VMM_REFERENCE_BLACKOUT_STEPS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rehome {

enum class BlackoutStep : uint8_t {
  kLearn,     // target: what a fresh vCPU holds already is not set again
  kSyncRegs,  // both: registers and events go through kvm_run (KVM_CAP_SYNC_REGS)
  kAnnounce,  // source: the vCPU thread that saved last announces the state, not the agent's
  kParallel,  // both: vCPUs are saved and restored at the same time, not one after the other
  kSpin,      // both: threads of one VMM spin for each other before they sleep (SpinBudget())
};

// "learn", ...; nullopt if there is no such step.
std::optional<BlackoutStep> BlackoutStepFromName(std::string_view name);
// Of every step, in order.
std::vector<std::string> BlackoutStepNames();

// A set of steps; none by default.
class BlackoutSteps {
 public:
  void Add(BlackoutStep step) { bits_ |= Bit(step); }
  bool Has(BlackoutStep step) const { return (bits_ & Bit(step)) != 0; }

 private:
  static uint32_t Bit(BlackoutStep step) { return 1u << static_cast<uint32_t>(step); }
  uint32_t bits_ = 0;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_BLACKOUT_STEPS_H_
