// SPDX-License-Identifier: Apache-2.0
//
// The loop of one migration: perform the effect, advance, journal, publish, repeat.
#ifndef REHOME_DAEMON_DRIVER_H_
#define REHOME_DAEMON_DRIVER_H_

#include <functional>

#include "daemon/effects.h"
#include "daemon/interrupt.h"
#include "daemon/journal.h"
#include "daemon/migration.h"

namespace rehome {

struct DriverContext {
  Journal* journal;
  MigrationEffects* effects;
  Interrupt* interrupt;
  // Called with each record after it is journalled, from the driving thread.
  std::function<void(const Migration&)> publish;
};

// Drives `record` (admitted and journalled, step kQueued) to a terminal state, which it returns.
// A journal that fails: before the blackout the migration is rolled back (reason JOURNAL_FULL or
// JOURNAL_FAILED), from the blackout on it goes on unrecorded, because stopping there would hurt the
// guest; both are reported in the record.
Migration Drive(Migration record, const DriverContext& context);

}  // namespace rehome

#endif  // REHOME_DAEMON_DRIVER_H_
