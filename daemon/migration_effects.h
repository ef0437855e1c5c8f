// SPDX-License-Identifier: Apache-2.0
//
// The effects of the machine on real processes: one dispatch over brownout_effects.h,
// handover_effects.h and completion_effects.h.
#ifndef REHOME_DAEMON_MIGRATION_EFFECTS_H_
#define REHOME_DAEMON_MIGRATION_EFFECTS_H_

#include <memory>

#include "daemon/effect_context.h"
#include "daemon/effects.h"

namespace rehome {

// `dependencies` and what they point to must outlive the factory and everything it made.
std::unique_ptr<EffectsFactory> NewMigrationEffectsFactory(EffectDependencies dependencies);

}  // namespace rehome

#endif  // REHOME_DAEMON_MIGRATION_EFFECTS_H_
