// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_effects.h"

#include <chrono>
#include <thread>
#include <utility>

#include "daemon/abort_effect.h"
#include "daemon/brownout_effects.h"
#include "daemon/completion_effects.h"
#include "daemon/handover_effects.h"
#include "daemon/recovery_effects.h"
#include "daemon/rescue_effects.h"
#include "daemon/trace_keeping.h"

namespace rehome {
namespace {

// While thousands of agents come back, descriptors can run out for a moment; a migration that ended
// for that would never be fenced.
constexpr int kRebuildAttempts = 20;
constexpr std::chrono::milliseconds kRebuildPause{100};

absl::Status RebuildPatiently(EffectContext& context, const Migration& record) {
  absl::Status status = Rebuild(context, record);
  for (int attempt = 1; attempt < kRebuildAttempts && !status.ok(); ++attempt) {
    std::this_thread::sleep_for(kRebuildPause);
    status = Rebuild(context, record);
  }
  return status;
}

class RealMigrationEffects : public MigrationEffects {
 public:
  explicit RealMigrationEffects(const EffectDependencies& dependencies)
      : dependencies_(dependencies) {}

  Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt) override {
    EffectContext context{dependencies_, escrow_, interrupt};
    const uint64_t begin_ns = rehome_monotonic_ns();
    Outcome outcome = Perform(effect, record, context);
    NoteTraceStep(escrow_.trace_steps, record.step, begin_ns);
    return outcome;
  }

  void End(const Migration& last) override {
    KeepTrace(dependencies_, last, std::exchange(escrow_, Escrow()));
  }

 private:
  Outcome Perform(Effect effect, const Migration& record, EffectContext& context) {
    // Of a migration that another daemon drove before there is nothing here yet.
    if (record.restarts > 0 && !rebuilt_) {
      const absl::Status status = RebuildPatiently(context, record);
      if (!status.ok()) return FailedOutcome(FailureEvent(record.step), status, record);
      rebuilt_ = true;
    }
    switch (effect) {
      case Effect::kNone:
        break;
      case Effect::kRunPreflight:
        return LossIfSourceDied(context, PreflightEffect(context, record));
      case Effect::kLaunchTarget:
        return LossIfSourceDied(context, LaunchTargetEffect(context, record));
      case Effect::kPrepareTarget:
        return LossIfSourceDied(context, PrepareTargetEffect(context, record));
      case Effect::kArm:
        return LossIfSourceDied(context, ArmEffect(context, record));
      case Effect::kHandOver:
        return HandOverEffect(context, record);
      case Effect::kAwaitFirstRun:
        return AwaitFirstRunEffect(context, record);
      case Effect::kFenceSource:
        return FenceSourceEffect(context, record);
      case Effect::kAbort:
        return AbortEffect(context, record);
      case Effect::kDiscardTarget:
        return DiscardTargetEffect(context, record);
      case Effect::kRecover:
        return RecoverEffect(context, record);
      case Effect::kBuildRescue:
        return BuildRescueEffect(context, record);
      case Effect::kHandOverToRescue:
        return HandOverToRescueEffect(context, record);
    }
    // kNone is the driver's to recognise; performing it changes nothing.
    return {Event::kTargetDiscarded, {}, record};
  }

  const EffectDependencies& dependencies_;
  Escrow escrow_;
  bool rebuilt_ = false;
};

class RealEffectsFactory : public EffectsFactory {
 public:
  explicit RealEffectsFactory(EffectDependencies dependencies)
      : dependencies_(std::move(dependencies)) {}

  std::unique_ptr<MigrationEffects> Create(const std::string&) override {
    return std::make_unique<RealMigrationEffects>(dependencies_);
  }

 private:
  const EffectDependencies dependencies_;
};

}  // namespace

std::unique_ptr<EffectsFactory> NewMigrationEffectsFactory(EffectDependencies dependencies) {
  return std::make_unique<RealEffectsFactory>(std::move(dependencies));
}

}  // namespace rehome
