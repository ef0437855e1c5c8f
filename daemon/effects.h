// SPDX-License-Identifier: Apache-2.0
//
// Carries out what the machine decided. One call, one event back. Everything that a migration holds
// (links, fds, the target process, the handover block) lives in its Escrow and is dropped with it.
#ifndef REHOME_DAEMON_EFFECTS_H_
#define REHOME_DAEMON_EFFECTS_H_

#include <memory>

#include "daemon/interrupt.h"
#include "daemon/machine.h"
#include "daemon/migration.h"

namespace rehome {

// What an effect learned: the event for the machine, its cause if it is a failure, and the facts it
// adds to the record (`update` is the record it was given plus those facts; step, state, owner and
// revision are the machine's and must be unchanged).
struct Outcome {
  Event event;
  Failure cause;
  Migration update;
};

// The work of one migration. Used by one driver thread; Interrupt may be raised by others. It ends
// the effects before the blackout (kInterrupted) and kHandOver (verdict to ABORTED, if that wins);
// kAwaitFirstRun, kFenceSource, kAbort and kDiscardTarget run to their own time-outs whatever it
// says, because there is nothing safe to do instead.
class MigrationEffects {
 public:
  virtual ~MigrationEffects() = default;
  virtual Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt) = 0;
  // The last call, once the terminal record is journaled: lets go of all that is left. Not made
  // while the migration is unresolved.
  virtual void End(const Migration& /*last*/) {}
};

class EffectsFactory {
 public:
  virtual ~EffectsFactory() = default;
  virtual std::unique_ptr<MigrationEffects> Create(const std::string& migration_id) = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_EFFECTS_H_
