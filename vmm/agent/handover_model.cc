// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/handover_model.h"

#include <map>

#include "gtest/gtest.h"

namespace rehome::model {

void Explorer::Run() {
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

const State* Explorer::Visit(const State& state) {
  const auto [place, is_new] = seen_.insert(state);
  if (is_new) queue_.push_back(state);
  return &*place;
}

void Explorer::MoveOn(const State& next) {
  // A refused swap leaves everything as it was: to try it again is no way on.
  if (next == now_) return;
  moved_ = true;
  moves_.emplace_back(&*seen_.find(now_), Visit(next));
}

size_t Explorer::CountEndless() const {
  std::map<const State*, std::vector<const State*>> before;
  for (const auto& [from, to] : moves_) before[to].push_back(from);
  std::set<const State*> ending;
  std::deque<const State*> queue;
  const auto add = [&](const State* state) {
    if (ending.insert(state).second) queue.push_back(state);
  };
  for (const State& end : ends_) add(&*seen_.find(end));
  while (!queue.empty()) {
    const State* state = queue.front();
    queue.pop_front();
    for (const State* from : before[state]) add(from);
  }
  return seen_.size() - ending.size();
}

void Explorer::Step(uint8_t State::*life, const std::function<void(State*)>& change) {
  if (now_.*life != kAlive && now_.*life != kSignalled) return;
  State next = now_;
  if (next.*life == kSignalled) next.*life = kLastStep;
  change(&next);
  MoveOn(next);
}

bool Explorer::Swap(State* state, uint32_t from, uint32_t to) {
  EXPECT_TRUE(rehome_verdict_has_edge(from, to));
  if (state->verdict != from) return false;
  state->verdict = static_cast<uint8_t>(to);
  return true;
}

bool Explorer::Condemn(State* state, rehome_side side) const {
  if (model_.without == Without::kFenceWord) return true;
  if (state->fence == REHOME_FENCE_STATE_OPEN) {
    state->fence = static_cast<uint8_t>(side);
    state->target_was_condemned = side == REHOME_SIDE_TARGET;
  }
  return state->fence == side ||
         (side == REHOME_SIDE_SOURCE && state->fence == REHOME_FENCE_STATE_PROVEN);
}

// A process that does not run takes no last step either.
void Explorer::Kill(uint8_t* life) {
  if (*life == kAlive) *life = kSignalled;
  if (*life == kHung) *life = kLastStep;
}

bool Explorer::Alive(const State& state) const {
  return model_.without == Without::kProbe || state.vm_dead == 0;
}

void Explorer::SourceSteps() {
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
        bool granted = s->rescues == 0 && Condemn(s, REHOME_SIDE_TARGET);
        s->source = granted ? kKills : kWatching;
        s->source_may_kill = granted;
      });
      return;
    case kKills:
      Step(&State::source_life, [this](State* s) {
        // A rescue's target is another process: the source has no pidfd of it.
        if (s->rescues == 0) Kill(&s->target_life);
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

uint8_t Explorer::VerdictOfSource(const State& state) {
  return state.rescues > 0 ? static_cast<uint8_t>(REHOME_VERDICT_ABORTED) : state.verdict;
}

void Explorer::Watch() {
  if (!model_.source_obeys && !now_.source_runs && now_.vm_dead == 0) {
    Step(&State::source_life, [](State* s) { s->source_runs = 1; });
  }
  switch (static_cast<rehome_verdict>(VerdictOfSource(now_))) {
    case REHOME_VERDICT_OPEN:  // the deadline, or a dead target
      if (model_.without == Without::kClaimDeadline && now_.target_life != kDead) return;
      Step(&State::source_life,
           [](State* s) { Swap(s, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED); });
      return;
    case REHOME_VERDICT_ABORTED:
      if (!Alive(now_)) return;
      Step(&State::source_life, [](State* s) {
        s->source = kRunsAgain;
        s->source_runs = 1;
        s->resumed = 1;
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
      } else if (model_.without != Without::kResolveDeadline && now_.source_may_kill &&
                 !(model_.moves && !Alive(now_))) {
        Step(&State::source_life, [](State* s) { s->source = kWantsKill; });
      }
      return;
  }
}

void Explorer::TakeBack(State* s) const {
  s->source = kWatching;
  if (s->rescues > 0) return;
  if (s->verdict != REHOME_VERDICT_CLAIMED && s->verdict != REHOME_VERDICT_COMMITTED) return;
  if (!Alive(*s)) return;
  Swap(s, s->verdict, REHOME_VERDICT_ABORTED);
}

void Explorer::TargetSteps() {
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
      // MOVE waits until no vCPU of the source is in KVM_RUN, and lets none in afterwards.
      Step(life, [this](State* s) {
        s->vm_dead = model_.moves;
        if (model_.moves) s->source_runs = 0;
        s->target = kMoved;
      });
      // It can refuse while nothing has been moved. A rescue's does that only by a fault of its
      // own, which is as if it crashed.
      if (now_.rescues > 0) return;
      Step(life, [this](State* s) { Refuse(s); });
      return;
    case kRefuses:
      Step(life, [](State* s) {
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
    case kProving:
      FenceSource();
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

// To a dead source it gives nothing back: the verdict stays CLAIMED, and a rescue can go on.
void Explorer::Refuse(State* s) const {
  const bool source_dead = s->source_life == kDead || s->fence == REHOME_FENCE_STATE_PROVEN;
  s->target = source_dead ? kLeaves : kRefuses;
  if (!source_dead || model_.without != Without::kCareInRefusing) return;
  s->target = kRefuses;
  s->blind_refusal = 1;
}

void Explorer::FenceSource() {
  uint8_t State::*life = &State::target_life;
  if (now_.target == kFencing) {
    Step(life, [](State* s) {
      Kill(&s->source_life);
      s->target = kProving;
    });
    return;
  }
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
}

void Explorer::PassFence() {
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
  Step(life, [this](State* s) { s->target = Condemn(s, REHOME_SIDE_SOURCE) ? kFencing : kLeaves; });
  if (now_.source_life == kDead) return;
  // It may not signal the source. It leaves only if nobody is about to kill that, either.
  Step(life, [this](State* s) {
    bool leaves = model_.without == Without::kCareInLeaving || Condemn(s, REHOME_SIDE_TARGET);
    s->target = leaves ? kLeaves : kProving;
  });
}

void Explorer::Deaths() {
  for (bool source : {true, false}) {
    uint8_t State::*life = source ? &State::source_life : &State::target_life;
    if (now_.*life != kSignalled && now_.*life != kLastStep) continue;
    State next = now_;
    next.*life = kDead;
    next.*(source ? &State::source_runs : &State::target_runs) = 0;
    MoveOn(next);
  }
}

void Explorer::Crashes() {
  if (now_.source_life == kAlive || now_.source_life == kHung) {
    State next = now_;
    next.source_life = kDead;
    next.source_runs = 0;
    next.source_crashed = 1;
    Visit(next);
  }
  if (now_.target_life == kAlive || now_.target_life == kHung) {
    State next = now_;
    next.target_life = kDead;
    next.target_runs = 0;
    next.target_crashed = 1;
    Visit(next);
  }
  if (now_.daemon_life == kAlive && now_.daemon_crashes < kMaxDaemonCrashes) {
    State next = now_;
    next.daemon_crashes++;
    if (!model_.store) next.escrow = 0;
    next.daemon = kWatches;  // comes back
    Visit(next);
    next.daemon_life = kDead;  // or does not
    Visit(next);
  }
  for (uint8_t State::*life : {&State::source_life, &State::target_life}) {
    if (now_.*life != kAlive) continue;
    State next = now_;
    next.*life = kHung;
    Visit(next);
  }
}

}  // namespace rehome::model
