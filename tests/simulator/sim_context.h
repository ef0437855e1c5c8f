// SPDX-License-Identifier: Apache-2.0
//
// The means of the simulated effects of one migration.
#ifndef REHOME_TESTS_SIMULATOR_SIM_CONTEXT_H_
#define REHOME_TESTS_SIMULATOR_SIM_CONTEXT_H_

#include <chrono>
#include <functional>
#include <string>

#include "daemon/effect_timeouts.h"
#include "daemon/effects.h"
#include "tests/simulator/sim_daemon.h"

namespace rehome::sim {

constexpr Micros InMicros(std::chrono::milliseconds duration) {
  return static_cast<Micros>(duration.count()) * kMillisecond;
}

inline constexpr EffectTimeouts kTimeouts;
inline constexpr Micros kAgentTimeout = InMicros(kTimeouts.agent);
inline constexpr Micros kLaunchTimeout = InMicros(kTimeouts.launch);
inline constexpr Micros kResolveTimeout = InMicros(kTimeouts.resolve);
inline constexpr Micros kFirstRunTimeout = InMicros(kTimeouts.first_run);
inline constexpr Micros kReleaseTimeout = InMicros(kTimeouts.release);
inline constexpr Micros kExitTimeout = InMicros(kTimeouts.exit);
inline constexpr Micros kResumeTimeout = InMicros(kTimeouts.resume);
inline constexpr Micros kRejoinTimeout = InMicros(kTimeouts.rejoin);
inline constexpr Micros kStuckMargin = kStuckMarginNs / 1000;
inline constexpr Micros kSlice = kVerdictSliceNs / 1000;
inline constexpr Micros kLookFor = InMicros(kLookPause);

class SimContext {
 public:
  explicit SimContext(SimDaemon* daemon) : daemon(*daemon), world(*daemon->world) {}

  // Lets the world run until `condition`, which it returns, or the time-out, or the daemon's death.
  bool Wait(Micros timeout, const std::function<bool()>& condition);
  // The daemon's thread is not the only one on the host.
  void Pause(Micros longest) {
    Wait(world.random.Between(1, longest), [] { return false; });
  }
  // The agent answers a request within its time-out.
  bool Ask(const Process* process);
  bool IsDead(const Process* process) const { return process == nullptr || !process->alive; }
  bool AwaitDeath(const Process* process, Micros timeout);
  // By chance, where the seed has such faults.
  bool GoesWrong();

  Micros ClaimTimeout(const Migration& record) const;
  SourceSight LookAtSource(Micros wait);
  bool TargetSaysItRuns();
  void DropEscrow(const std::string& migration);

  SimDaemon& daemon;
  World& world;
  SimEscrow escrow;
  Process* source = nullptr;
  Process* target = nullptr;
  Micros handover_start = 0;
  bool rebuilt = false;
  bool blackout = false;  // the daemon may die by chance
};

Outcome Answer(Event event, const std::string& reason, Migration record);
inline Outcome Answer(Event event, Migration record) {
  return Answer(event, "", std::move(record));
}

// sim_prepare.cc
Outcome SimPreflight(SimContext& context, Migration record);
Outcome SimLaunch(SimContext& context, Migration record);
Outcome SimPrepare(SimContext& context, Migration record);
Outcome SimArm(SimContext& context, Migration record);
// Launches and waits for HELLO; false: none came. Notes the process on record.
bool StartTarget(SimContext& context, Migration& record);
// PREPARE with a new block; null: refused.
std::shared_ptr<Block> BuildInTarget(SimContext& context, const Migration& record);

// sim_handover.cc
Outcome SimHandOver(SimContext& context, Migration record, Interrupt& interrupt);
Outcome SimAbort(SimContext& context, Migration record);

// sim_complete.cc
Outcome SimFirstRun(SimContext& context, Migration record);
Outcome SimFence(SimContext& context, Migration record);
Outcome SimDiscard(SimContext& context, Migration record);

// sim_recover.cc
void SimRebuild(SimContext& context, const Migration& record);
Outcome SimRecover(SimContext& context, Migration record);
bool KnowsVerdict(const SimEscrow& escrow, const Migration& record);

// sim_rescue.cc
Outcome SimBuildRescue(SimContext& context, Migration record);
Outcome SimHandOverToRescue(SimContext& context, Migration record);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SIM_CONTEXT_H_
