// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_effects.h"

#include <utility>

#include "daemon/brownout_effects.h"
#include "daemon/completion_effects.h"
#include "daemon/handover_effects.h"
#include "daemon/rescue_effects.h"

namespace rehome {
namespace {

class RealMigrationEffects : public MigrationEffects {
 public:
  explicit RealMigrationEffects(const EffectDependencies& dependencies)
      : dependencies_(dependencies) {}

  Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt) override {
    EffectContext context{dependencies_, escrow_, interrupt};
    switch (effect) {
      case Effect::kNone:
      case Effect::kRecover:
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
      case Effect::kBuildRescue:
        return BuildRescueEffect(context, record);
      case Effect::kHandOverToRescue:
        return HandOverToRescueEffect(context, record);
    }
    // kNone is the driver's to recognise; performing it changes nothing.
    return {Event::kTargetDiscarded, {}, record};
  }

 private:
  const EffectDependencies& dependencies_;
  Escrow escrow_;
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
