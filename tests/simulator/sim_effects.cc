// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "daemon/machine.h"
#include "daemon/rescue_rules.h"
#include "tests/simulator/sim_context.h"

namespace rehome::sim {

bool SimContext::Wait(Micros timeout, const std::function<bool()>& condition) {
  const Micros deadline = world.now() + timeout;
  for (;;) {
    if (daemon.dead) return false;
    if (!world.violation().empty()) {
      daemon.Die("because of a violation");
      return false;
    }
    if (condition()) return true;
    const bool time_left = world.RunNext(deadline);
    if (blackout && daemon.deaths_left > 0 && daemon.dies_one_in > 0 &&
        world.random.OneIn(daemon.dies_one_in)) {
      daemon.Die("by chance");
    }
    if (!time_left) return !daemon.dead && condition();
  }
}

bool SimContext::Ask(const Process* process) {
  Pause(300);
  if (process == nullptr) return false;
  return Wait(kAgentTimeout, [&] { return !process->alive || world.Answers(*process); }) &&
         process->alive;
}

bool SimContext::AwaitDeath(const Process* process, Micros timeout) {
  return Wait(timeout, [&] { return IsDead(process); });
}

bool SimContext::GoesWrong() {
  const uint64_t chance = world.faults.refuse_one_in;
  return chance > 0 && world.now() < world.faults.until && world.random.OneIn(chance);
}

Micros SimContext::ClaimTimeout(const Migration& record) const {
  return InMicros(ClaimTimeoutOf(record, kTimeouts.claim));
}

SourceSight SimContext::LookAtSource(Micros wait) {
  if (IsDead(source)) return SourceSight::kDead;
  Wait(wait, [&] { return IsDead(source) || world.Answers(*source); });
  if (IsDead(source)) return SourceSight::kDead;
  if (!world.Answers(*source)) return SourceSight::kSilent;
  // Another failure than EIO, of which an old agent says the same.
  const uint64_t chance = world.faults.probe_fails_one_in;
  const bool fails = chance > 0 && world.now() < world.faults.until && world.random.OneIn(chance);
  const bool old_agent = world.guests[source->guest].old_agent;
  if (fails && !old_agent) return SourceSight::kSilent;
  if (fails || source->kvm->dead) {
    if (source->runs_guest) return SourceSight::kSilent;
    return old_agent ? SourceSight::kVmDeadUnproven : SourceSight::kVmDead;
  }
  return source->runs_guest ? SourceSight::kRunsGuest : SourceSight::kPaused;
}

bool SimContext::TargetSaysItRuns() {
  return Ask(target) && target->runs_guest && target->target.first_run;
}

void SimContext::DropEscrow(const std::string& migration) {
  escrow = SimEscrow();
  if (daemon.store != nullptr && !daemon.dead) daemon.store->erase(migration);
}

Outcome Answer(Event event, const std::string& reason, Migration record) {
  return {event, {reason, reason.empty() ? "" : "as the seed has it"}, std::move(record)};
}

namespace {

bool IsBlackout(Effect effect) {
  return effect == Effect::kHandOver || effect == Effect::kAbort ||
         effect == Effect::kBuildRescue || effect == Effect::kHandOverToRescue;
}

class SimEffects : public MigrationEffects {
 public:
  explicit SimEffects(SimDaemon* daemon) : daemon_(*daemon), context_(daemon) {}

  Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt) override {
    daemon_.gate.Pass();
    Outcome outcome = Answer(FailureEvent(record.step), record);
    if (!daemon_.dead) {
      daemon_.world->Log(std::string("effect ") + EffectName(effect));
      context_.blackout = IsBlackout(effect);
      outcome = Do(effect, record, interrupt);
    }
    if (!daemon_.dead) return outcome;
    // Nobody hears it: the journal is the dead daemon's as well.
    return Answer(FailureEvent(record.step), record);
  }

 private:
  // As LossIfSourceDied() of the real ones.
  Outcome LossIfSourceDied(Outcome outcome) {
    const bool failed = outcome.event == Event::kRefused || outcome.event == Event::kInterrupted;
    if (failed && context_.IsDead(context_.source)) outcome.event = Event::kSourceLost;
    return outcome;
  }

  Outcome Before(Effect effect, Migration record, Interrupt& interrupt) {
    if (context_.world.faults.refuse_one_in > 0 && context_.world.random.OneIn(400)) {
      interrupt.Raise(StopCause::kDeadline);
    }
    context_.Pause(3 * kMillisecond);
    if (interrupt.raised()) return Answer(Event::kInterrupted, "INTERRUPTED", std::move(record));
    if (effect == Effect::kRunPreflight) return SimPreflight(context_, std::move(record));
    if (effect == Effect::kLaunchTarget) return SimLaunch(context_, std::move(record));
    if (effect == Effect::kPrepareTarget) return SimPrepare(context_, std::move(record));
    return SimArm(context_, std::move(record));
  }

  Outcome Do(Effect effect, const Migration& record, Interrupt& interrupt) {
    if (context_.source == nullptr) context_.source = context_.world.Find(record.source);
    if (record.restarts > 0 && !context_.rebuilt) {
      SimRebuild(context_, record);
      context_.rebuilt = true;
    }
    switch (effect) {
      case Effect::kNone:
        break;
      case Effect::kRunPreflight:
      case Effect::kLaunchTarget:
      case Effect::kPrepareTarget:
      case Effect::kArm:
        return LossIfSourceDied(Before(effect, record, interrupt));
      case Effect::kHandOver:
        return SimHandOver(context_, record, interrupt);
      case Effect::kAwaitFirstRun:
        return SimFirstRun(context_, record);
      case Effect::kFenceSource:
        return SimFence(context_, record);
      case Effect::kAbort:
        return SimAbort(context_, record);
      case Effect::kDiscardTarget:
        return SimDiscard(context_, record);
      case Effect::kRecover:
        return SimRecover(context_, record);
      case Effect::kBuildRescue:
        return SimBuildRescue(context_, record);
      case Effect::kHandOverToRescue:
        return SimHandOverToRescue(context_, record);
    }
    return Answer(Event::kTargetDiscarded, record);
  }

  SimDaemon& daemon_;
  SimContext context_;
};

class SimEffectsFactory : public EffectsFactory {
 public:
  explicit SimEffectsFactory(SimDaemon* daemon) : daemon_(daemon) {}
  std::unique_ptr<MigrationEffects> Create(const std::string&) override {
    return std::make_unique<SimEffects>(daemon_);
  }

 private:
  SimDaemon* const daemon_;
};

}  // namespace

std::unique_ptr<EffectsFactory> NewSimEffectsFactory(SimDaemon* daemon) {
  return std::make_unique<SimEffectsFactory>(daemon);
}

}  // namespace rehome::sim
