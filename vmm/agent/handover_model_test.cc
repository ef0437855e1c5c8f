// SPDX-License-Identifier: Apache-2.0
//
// docs/handover.md as a program: source, target and daemon take their steps in every possible
// order. Deadlines may pass at any moment, so there is no clock. A kill is the decision, the
// signal, one last step that the killed process may still take (it can be in a system call on
// another CPU), and death. Each process may also crash by itself at any moment, and the daemon may
// come back knowing nothing.
//
// The steps are those of verdict.c and target_run.c; the verdict moves only along the real table.
#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

enum Life : uint8_t { kAlive, kSignalled, kLastStep, kDead };

enum SourceAt : uint8_t { kSaving, kWatching, kWantsKill, kKills, kTakesBack, kRunsAgain, kGaveUp };
enum TargetAt : uint8_t {
  kWaiting,
  kClaimed,
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

  friend auto operator<=>(const State&, const State&) = default;
};

// What a mutant leaves out.
enum class Without { kNothing, kFenceWord, kProofOfDeath, kProbe, kCareInLeaving };

struct Model {
  bool moves;
  uint32_t policy;
  Without without = Without::kNothing;
};

class Explorer {
 public:
  explicit Explorer(const Model& model) : model_(model) {}

  void Run() {
    Visit(State());
    while (!queue_.empty()) {
      State state = queue_.front();
      queue_.pop_front();
      now_ = state;
      moved_ = false;
      SourceSteps();
      TargetSteps();
      DaemonSteps();
      Deaths();
      if (!moved_) ends_.push_back(state);
      Crashes();
    }
  }

  const std::set<State>& seen() const { return seen_; }
  // States in which nothing but a crash can happen any more.
  const std::vector<State>& ends() const { return ends_; }

 private:
  static constexpr int kMaxDaemonCrashes = 2;

  void Visit(const State& state) {
    if (seen_.insert(state).second) queue_.push_back(state);
  }

  // One step of whoever owns `life`: `change` gets the state to change.
  void Step(uint8_t State::*life, const std::function<void(State*)>& change) {
    if (now_.*life == kDead || now_.*life == kLastStep) return;
    State next = now_;
    if (next.*life == kSignalled) next.*life = kLastStep;
    change(&next);
    moved_ = true;
    Visit(next);
  }

  static bool Swap(State* state, uint32_t from, uint32_t to) {
    EXPECT_TRUE(rehome_verdict_has_edge(from, to));
    if (state->verdict != from) return false;
    state->verdict = static_cast<uint8_t>(to);
    return true;
  }

  bool Condemn(State* state, rehome_side side) const {
    if (model_.without == Without::kFenceWord) return true;
    if (state->fence == REHOME_FENCE_STATE_OPEN) {
      state->fence = static_cast<uint8_t>(side);
      state->target_was_condemned = side == REHOME_SIDE_TARGET;
    }
    return state->fence == side ||
           (side == REHOME_SIDE_SOURCE && state->fence == REHOME_FENCE_STATE_PROVEN);
  }

  static void Kill(uint8_t* life) {
    if (*life == kAlive) *life = kSignalled;
  }

  bool Alive(const State& state) const {
    return model_.without == Without::kProbe || state.vm_dead == 0;
  }
  bool FencesBefore() const { return model_.policy == REHOME_FENCE_BEFORE_RESUME; }

  // ---- source (source.c, verdict.c) ----

  void SourceSteps() {
    switch (static_cast<SourceAt>(now_.source)) {
      case kSaving:
        // Paused; the state is complete, unless somebody cancelled meanwhile.
        if (now_.source_runs) {
          Step(&State::source_life, [](State* s) { s->source_runs = 0; });
          return;
        }
        Step(&State::source_life, [](State* s) {
          s->source = kWatching;
          if (s->verdict == REHOME_VERDICT_OPEN) s->ready = 1;
        });
        return;
      case kWatching:
        Watch();
        return;
      case kWantsKill:
        Step(&State::source_life, [this](State* s) {
          bool granted = Condemn(s, REHOME_SIDE_TARGET);
          s->source = granted ? kKills : kWatching;
          s->source_may_kill = granted;
        });
        return;
      case kKills:
        Step(&State::source_life, [this](State* s) {
          Kill(&s->target_life);
          s->source_may_kill = 0;
          s->source = model_.without == Without::kProofOfDeath ? kTakesBack : kWatching;
        });
        return;
      case kTakesBack:
        Step(&State::source_life, [this](State* s) { TakeBack(s); });
        return;
      case kRunsAgain:
      case kGaveUp:
        return;
    }
  }

  void Watch() {
    switch (static_cast<rehome_verdict>(now_.verdict)) {
      case REHOME_VERDICT_OPEN:  // the deadline, or a dead target
        Step(&State::source_life,
             [](State* s) { Swap(s, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED); });
        return;
      case REHOME_VERDICT_ABORTED:
        if (!Alive(now_)) return;
        Step(&State::source_life, [](State* s) {
          s->source = kRunsAgain;
          s->source_runs = 1;
        });
        return;
      case REHOME_VERDICT_RUNNING:
        Step(&State::source_life, [](State* s) { s->source = kGaveUp; });
        return;
      case REHOME_VERDICT_CLAIMED:
      case REHOME_VERDICT_COMMITTED:
        if (now_.target_life == kDead) {
          if (!Alive(now_)) return;
          if (model_.moves && now_.verdict == REHOME_VERDICT_COMMITTED) return;
          Step(&State::source_life, [](State* s) { s->source = kTakesBack; });
        } else if (now_.source_may_kill && !(model_.moves && !Alive(now_))) {
          Step(&State::source_life, [](State* s) { s->source = kWantsKill; });
        }
        return;
    }
  }

  // Reads the verdict again, probes, swaps.
  void TakeBack(State* s) const {
    s->source = kWatching;
    if (s->verdict != REHOME_VERDICT_CLAIMED && s->verdict != REHOME_VERDICT_COMMITTED) return;
    if (!Alive(*s)) return;
    Swap(s, s->verdict, REHOME_VERDICT_ABORTED);
  }

  // ---- target (target_run.c) ----

  void TargetSteps() {
    uint8_t State::*life = &State::target_life;
    switch (static_cast<TargetAt>(now_.target)) {
      case kWaiting:
        if (now_.verdict == REHOME_VERDICT_ABORTED) {
          Step(life, [](State* s) { s->target = kLeaves; });
        } else if (now_.ready) {
          Step(life, [](State* s) {
            bool won = Swap(s, REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED);
            s->target = won ? kClaimed : kLeaves;
          });
        } else if (now_.source_life == kDead) {
          Step(life, [](State* s) { Swap(s, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED); });
        }
        return;
      case kClaimed:
        Step(life, [this](State* s) {
          s->vm_dead = model_.moves;
          s->target = kMoved;
        });
        Step(life, [](State* s) {  // it can refuse while nothing has been moved
          Swap(s, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
          s->target = kLeaves;
        });
        return;
      case kMoved:
        Step(life, [](State* s) {
          bool won = Swap(s, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED);
          s->target = won ? kCommitted : kLeaves;
        });
        return;
      case kCommitted:
        PassFence();
        return;
      case kFencing:
        Step(life, [](State* s) {
          Kill(&s->source_life);
          s->target = kProving;
        });
        return;
      case kProving:
        // Who was about to kill the source is gone for good: this takes minutes to believe.
        if (now_.source_life == kAlive && now_.daemon_life == kDead) {
          Step(life, [](State* s) { s->target = kLeaves; });
          return;
        }
        if (now_.source_life != kDead && now_.fence != REHOME_FENCE_STATE_PROVEN) return;
        Step(life, [](State* s) {
          s->fence = REHOME_FENCE_STATE_PROVEN;
          s->target = kFenced;
        });
        return;
      case kFenced:
        Step(life, [](State* s) {
          bool won = Swap(s, REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING);
          s->target = won ? kMayRun : kLeaves;
        });
        return;
      case kMayRun:
        Step(life, [](State* s) {
          s->target = kRuns;
          s->target_runs = 1;
        });
        return;
      case kRuns:
        return;
      case kLeaves:
        Step(life, [](State* s) { s->target_life = kDead; });
        return;
    }
  }

  void PassFence() {
    uint8_t State::*life = &State::target_life;
    if (!FencesBefore()) {
      Step(life,
           [this](State* s) { s->target = Condemn(s, REHOME_SIDE_SOURCE) ? kFenced : kLeaves; });
      return;
    }
    if (now_.fence == REHOME_FENCE_STATE_PROVEN) {
      Step(life, [](State* s) { s->target = kFenced; });
      return;
    }
    // The wait ends, and nobody has proven anything.
    Step(life,
         [this](State* s) { s->target = Condemn(s, REHOME_SIDE_SOURCE) ? kFencing : kLeaves; });
    if (now_.source_life == kDead) return;
    // It may not signal the source. It leaves only if nobody is about to kill that, either.
    Step(life, [this](State* s) {
      bool leaves = model_.without == Without::kCareInLeaving || Condemn(s, REHOME_SIDE_TARGET);
      s->target = leaves ? kLeaves : kProving;
    });
  }

  // ---- daemon ----

  void DaemonSteps() {
    uint8_t State::*life = &State::daemon_life;
    switch (static_cast<DaemonAt>(now_.daemon)) {
      case kWatches:
        DaemonWatches();
        return;
      case kStopsSource:
        Step(life, [](State* s) {  // reads the verdict again
          bool wanted = s->verdict == REHOME_VERDICT_COMMITTED;
          s->daemon = wanted ? kProvesSource : kWatches;
          if (wanted) Kill(&s->source_life);
        });
        return;
      case kProvesSource:
        if (now_.source_life != kDead) return;
        Step(life, [](State* s) {
          s->fence = REHOME_FENCE_STATE_PROVEN;
          s->daemon = kWatches;
        });
        return;
      case kStopsTarget:
        Step(life, [](State* s) {
          Kill(&s->target_life);
          s->daemon = kWatches;
        });
        return;
      case kReleases:
        Step(life, [](State* s) {
          Kill(&s->source_life);
          s->daemon = kDone;
        });
        return;
      case kDone:
        return;
    }
  }

  void DaemonWatches() {
    uint8_t State::*life = &State::daemon_life;
    bool committed = now_.verdict == REHOME_VERDICT_COMMITTED;
    if (now_.verdict == REHOME_VERDICT_OPEN) {  // cancel
      Step(life, [](State* s) { Swap(s, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED); });
    } else if (now_.verdict == REHOME_VERDICT_RUNNING) {
      Step(life, [](State* s) { s->daemon = kReleases; });
    } else if (now_.verdict != REHOME_VERDICT_ABORTED) {
      if (FencesBefore() && committed && now_.source_life != kDead) {
        Step(life, [this](State* s) {
          if (Condemn(s, REHOME_SIDE_SOURCE)) s->daemon = kStopsSource;
        });
      }
      if (now_.target_life == kAlive && !(model_.moves && committed)) {
        Step(life, [this](State* s) {
          if (Condemn(s, REHOME_SIDE_TARGET)) s->daemon = kStopsTarget;
        });
      }
      if (now_.source_life == kDead && now_.fence != REHOME_FENCE_STATE_PROVEN) {
        Step(life, [](State* s) { s->fence = REHOME_FENCE_STATE_PROVEN; });
      }
    }
  }

  // ---- death ----

  void Deaths() {
    for (bool source : {true, false}) {
      uint8_t State::*life = source ? &State::source_life : &State::target_life;
      if (now_.*life != kSignalled && now_.*life != kLastStep) continue;
      State next = now_;
      next.*life = kDead;
      next.*(source ? &State::source_runs : &State::target_runs) = 0;
      moved_ = true;
      Visit(next);
    }
  }

  void Crashes() {
    if (now_.source_life == kAlive) {
      State next = now_;
      next.source_life = kDead;
      next.source_runs = 0;
      next.source_crashed = 1;
      Visit(next);
    }
    if (now_.target_life == kAlive) {
      State next = now_;
      next.target_life = kDead;
      next.target_runs = 0;
      next.target_crashed = 1;
      Visit(next);
    }
    if (now_.daemon_life == kAlive && now_.daemon_crashes < kMaxDaemonCrashes) {
      State next = now_;
      next.daemon_crashes++;
      next.daemon = kWatches;  // comes back
      Visit(next);
      next.daemon_life = kDead;  // or does not
      Visit(next);
    }
  }

  const Model model_;
  State now_;
  bool moved_ = false;
  std::set<State> seen_;
  std::deque<State> queue_;
  std::vector<State> ends_;
};

// Whose own crash, or which limit that docs/handover.md names, explains that nobody runs the guest.
bool IsExcused(const Model& model, const State& s) {
  // A target that has left, left the guest to the source.
  bool source_had_it = !s.ready || s.verdict == REHOME_VERDICT_ABORTED || s.target_was_condemned ||
                       s.target == kLeaves;
  if (s.source_crashed && (s.target_crashed || source_had_it)) return true;
  if (s.target_crashed && s.verdict == REHOME_VERDICT_RUNNING) return true;
  bool source_is_fenced = model.policy == REHOME_FENCE_BEFORE_RESUME &&
                          (s.fence == REHOME_SIDE_SOURCE || s.fence == REHOME_FENCE_STATE_PROVEN);
  if (s.target_crashed && source_is_fenced) return true;
  return model.moves && s.vm_dead && s.target_life == kDead;  // waits for a rescue
}

int CountLost(const Model& model, const Explorer& explorer, bool also_with_crashes) {
  int lost = 0;
  for (const State& s : explorer.ends()) {
    if (s.source_runs + s.target_runs == 1) continue;
    if (!also_with_crashes && (s.source_crashed || s.target_crashed)) continue;
    lost += !IsExcused(model, s);
  }
  return lost;
}

int CountTwice(const Explorer& explorer) {
  int twice = 0;
  for (const State& s : explorer.seen()) {
    // A source that runs a VM whose context has moved runs a guest that another one has.
    twice += s.source_runs && (s.target_runs || s.vm_dead);
  }
  return twice;
}

constexpr Model kMove = {true, REHOME_FENCE_KERNEL};
constexpr Model kFenceBefore = {false, REHOME_FENCE_BEFORE_RESUME};
constexpr Model kFenceAfter = {false, REHOME_FENCE_AFTER_RESUME};

class HandoverModel : public testing::TestWithParam<Model> {};
INSTANTIATE_TEST_SUITE_P(Policies, HandoverModel,
                         testing::Values(kMove, kFenceBefore, kFenceAfter));

TEST_P(HandoverModel, NeverHasTwoOwnersAndLosesNoGuestThatCouldBeKept) {
  Explorer explorer(GetParam());
  explorer.Run();
  EXPECT_EQ(CountTwice(explorer), 0);
  EXPECT_EQ(CountLost(GetParam(), explorer, true), 0);
  EXPECT_GT(explorer.seen().size(), 1000u);
  RecordProperty("states", static_cast<int>(explorer.seen().size()));
}

TEST_P(HandoverModel, CanEndWellOnEitherSide) {
  Explorer explorer(GetParam());
  explorer.Run();
  bool on_source = false, on_target = false;
  for (const State& s : explorer.ends()) {
    on_source |= s.source_runs == 1;
    on_target |= s.target_runs == 1;
  }
  EXPECT_TRUE(on_source);
  EXPECT_TRUE(on_target);
}

// The guards are needed: the walk without one of them finds what it protects from.

TEST(HandoverModelMutant, LosesGuestsWithoutTheFenceWord) {
  for (Model model : {kFenceBefore, kFenceAfter}) {
    model.without = Without::kFenceWord;
    Explorer explorer(model);
    explorer.Run();
    EXPECT_GT(CountLost(model, explorer, false), 0) << model.policy;
  }
}

TEST(HandoverModelMutant, LosesGuestsWhenATargetThatCannotFenceLeavesUnseen) {
  Model model = kFenceBefore;
  model.without = Without::kCareInLeaving;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountLost(model, explorer, false), 0);
}

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProofOfDeath) {
  Model model = kMove;
  model.without = Without::kProofOfDeath;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer), 0);
}

TEST(HandoverModelMutant, RunsAMovedGuestWithoutTheProbe) {
  Model model = kMove;
  model.without = Without::kProbe;
  Explorer explorer(model);
  explorer.Run();
  EXPECT_GT(CountTwice(explorer), 0);
}

}  // namespace
}  // namespace rehome
