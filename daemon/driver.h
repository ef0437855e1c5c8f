// SPDX-License-Identifier: Apache-2.0
//
// The loop of one migration: advance, journal, publish, perform the effect, repeat. What is
// announced in the journal may or may not have been done; what is not announced has not been done.
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

// Drives `record`, which is journalled, to a terminal state, which it returns. `first` is what
// happened to it last: kAdmitted (step kQueued), kDaemonRestarted or kResolveRequested, with
// `cause` where that is a setback.
//
// An interrupt before the blackout rolls the migration back; the cause of the interrupt is the
// reason on record, whatever the effect said of it. In the blackout the verdict decides, after it
// an interrupt changes nothing.
//
// A journal that fails: before the blackout the migration is rolled back (reason JOURNAL_FULL or
// JOURNAL_FAILED), from the blackout on it goes on unrecorded, because stopping there would hurt
// the guest. Every transition that is not on disk shows in journal_failure (the first of them).
//
// An effect that answers with an event its step does not know, or claims a fence without proof, is
// a bug: it counts as FailureEvent() of the step, with the machine's error as the cause.
Migration Drive(Migration record, Event first, const Failure& cause, const DriverContext& context);

}  // namespace rehome

#endif  // REHOME_DAEMON_DRIVER_H_
