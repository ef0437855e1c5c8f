// SPDX-License-Identifier: Apache-2.0
//
// docs/handover.md and docs/recovery.md as a program: source, target and daemon take their steps in
// every possible order. Deadlines may pass at any moment, so there is no clock. A kill is the
// decision, the signal, one last step that the killed process may still take (it can be in a system
// call on another CPU), and death. Each process may also crash by itself at any moment, source and
// target may hang for good, and the daemon may come back knowing nothing but what a service manager
// kept for it. A guest that nobody can run any more is rescued from the escrow, with a new block.
//
// The steps are those of verdict.c and target_run.c; the verdict moves only along the real table.
#ifndef REHOME_VMM_AGENT_HANDOVER_MODEL_H_
#define REHOME_VMM_AGENT_HANDOVER_MODEL_H_

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome::model {

// kHung: takes no step until it is killed, like a stopped process. One that is merely slow needs no
// state of its own: nothing here has to happen soon.
enum Life : uint8_t { kAlive, kHung, kSignalled, kLastStep, kDead };

enum SourceAt : uint8_t { kSaving, kWatching, kWantsKill, kKills, kTakesBack, kRunsAgain, kGaveUp };
enum TargetAt : uint8_t {
  kWaiting,
  kClaimed,
  kRefuses,
  kMoved,
  kCommitted,
  kFencing,
  kProving,
  kFenced,
  kMayRun,
  kRuns,
  kLeaves
};
enum DaemonAt : uint8_t { kWatches, kStopsSource, kProvesSource, kStopsTarget, kReleases, kDone };

// Bytes only, so that it can be compared and kept as bytes.
struct State {
  uint8_t verdict = REHOME_VERDICT_OPEN;
  uint8_t fence = REHOME_FENCE_STATE_OPEN;
  uint8_t ready = 0;
  uint8_t vm_dead = 0;  // the kernel: MOVE has been done
  uint8_t source = kSaving, source_life = kAlive, source_runs = 1;
  uint8_t source_may_kill = 1;  // it has not been refused yet
  uint8_t target = kWaiting, target_life = kAlive, target_runs = 0;
  uint8_t daemon = kWatches, daemon_life = kAlive;
  uint8_t target_was_condemned = 0;  // PROVEN can take the place of it in the word
  uint8_t source_crashed = 0, target_crashed = 0, daemon_crashes = 0;
  uint8_t escrow = 1;  // the daemon holds all that a rescue needs
  // The daemon itself made the verdict ABORTED when the source was out already. It is in its
  // journal (step RESCUING), which is written first, so it survives the daemon.
  uint8_t daemon_aborted = 0;
  // The target saw that the source is dead, and made the verdict ABORTED all the same.
  uint8_t blind_refusal = 0;
  uint8_t resumed = 0;  // the source ran the guest after the pause: the saved state is history
  // Targets that took a dead one's place. verdict, fence and target are then those of the latest;
  // the source keeps looking at the first block, which is ABORTED for good.
  uint8_t rescues = 0;

  friend auto operator<=>(const State&, const State&) = default;
};

// What a mutant leaves out.
enum class Without {
  kNothing,
  kFenceWord,
  kProofOfDeath,
  kProbe,
  kCareInLeaving,
  kCareInRefusing,     // a target gives the guest back to a source that is dead
  kFenceBeforeAbort,   // the daemon aborts COMMITTED though the target may be killing the source
  kDoubtAboutAborted,  // a rescue from a state that the source may have gone on from
  kClaimDeadline,      // a source waits for a claim as long as its target lives
  kResolveDeadline,    // a source waits for RUNNING as long as its target lives
  kSecondLook,         // the daemon does not read the verdict again before it kills the source
};

struct Model {
  bool moves;
  uint32_t policy;
  // The escrow survives the daemon, with a service manager.
  bool store = true;
  // False: the source runs the guest whenever kernel and scheduler let it.
  bool source_obeys = true;
  Without without = Without::kNothing;
};

class Explorer {
 public:
  explicit Explorer(const Model& model) : model_(model) {}

  void Run();

  const std::set<State>& seen() const { return seen_; }
  // States in which nothing but a crash can happen any more.
  const std::vector<State>& ends() const { return ends_; }
  // How many states lead to no end, so that somebody acts for ever and nothing comes of it.
  size_t CountEndless() const;

  // Whether the guest waits for nothing but a daemon that can, and will, rescue it.
  bool CanRescue(const State& state) const;

 private:
  static constexpr int kMaxDaemonCrashes = 2;
  // One to see a rescue work, and one to see a rescue's target die and be replaced.
  static constexpr int kMaxRescues = 2;

  const State* Visit(const State& state);
  // No crash: what has to happen if nobody crashes.
  void MoveOn(const State& next);

  // One step of whoever owns `life`: `change` gets the state to change.
  void Step(uint8_t State::*life, const std::function<void(State*)>& change);

  static bool Swap(State* state, uint32_t from, uint32_t to);

  bool Condemn(State* state, rehome_side side) const;

  static void Kill(uint8_t* life);

  bool Alive(const State& state) const;
  bool FencesBefore() const { return model_.policy == REHOME_FENCE_BEFORE_RESUME; }

  // ---- source (source.c, verdict.c) ----

  void SourceSteps();

  void Watch();

  // The word that the source looks at.
  static uint8_t VerdictOfSource(const State& state);
  // Reads the verdict again, probes, swaps.
  void TakeBack(State* s) const;

  // ---- target (target_run.c) ----

  void TargetSteps();

  // Looks whether there is anybody to give the guest back to.
  void Refuse(State* s) const;
  void PassFence();
  void FenceSource();

  // ---- daemon ----

  void DaemonSteps();

  void DaemonWatches();
  void StopHangingTarget();
  static void AbortFrom(State* state);
  void Rescue();

  // ---- death ----

  void Deaths();

  void Crashes();

  const Model model_;
  State now_;
  bool moved_ = false;
  std::set<State> seen_;
  std::deque<State> queue_;
  std::vector<State> ends_;
  std::vector<std::pair<const State*, const State*>> moves_;  // from, to
};

}  // namespace rehome::model

#endif  // REHOME_VMM_AGENT_HANDOVER_MODEL_H_
