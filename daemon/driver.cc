// SPDX-License-Identifier: Apache-2.0
#include "daemon/driver.h"

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/clock.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/rescue_rules.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

Failure FailureOf(const absl::Status& status) {
  return {ReasonOf(status), std::string(status.message())};
}

// Why the migration should not go on, as the machine wants it.
Failure StopOf(const Interrupt& interrupt) {
  switch (interrupt.cause()) {
    case StopCause::kNone:
      return {};
    case StopCause::kCancelled:
      return {std::string(reason::kCancelled), "cancelled by request"};
    case StopCause::kDeadline:
      return {std::string(reason::kDeadlineExceeded),
              "the deadline of the migration passed before the guest was handed over"};
    case StopCause::kShutdown:
      return {std::string(reason::kShuttingDown), "rehomed is being stopped"};
  }
  return {};
}

Advanced Decide(const Migration& record, Event event, const Failure& cause, const Failure& stop) {
  absl::StatusOr<Advanced> next = Advance(record, event, cause, stop);
  if (!next.ok()) {
    next = Advance(record, FailureEvent(record.step), FailureOf(next.status()), stop);
  }
  // FailureEvent() is legal in every step that is driven (machine_test).
  Advanced decided = *std::move(next);
  if (IsTerminal(decided.record.state)) decided.record.end_time_unix_ns = UnixNanos();
  return decided;
}

// Whether `step` announces an act that need not be done: those up to START.
bool CanStillTurnBack(Step step) {
  switch (step) {
    case Step::kPreflight:
    case Step::kLaunching:
    case Step::kPreparingTarget:
    case Step::kArming:
    case Step::kHandingOver:
      return true;
    case Step::kQueued:
    case Step::kFirstRun:
    case Step::kFencing:
    case Step::kAborting:
    case Step::kDiscardingTarget:
    case Step::kDone:
    case Step::kRecovering:
    case Step::kRescuing:
    case Step::kRescueHandingOver:
    case Step::kUnresolved:
      return false;
  }
  return false;
}

// Whether `next` must not be begun unless it is on record. A later daemon must be able to tell who
// took the verdict, which process is the new target, and why a source was ended.
bool MustBeOnRecord(const Migration& record, const Migration& next) {
  const bool ends_source = EndsEmptySource(next) && !EndsEmptySource(record);
  return next.step == Step::kRescuing || next.step == Step::kRescueHandingOver || ends_source;
}

// Journals `next`, which follows `record`; what it returns is to be done.
Advanced Announce(const Migration& record, Advanced next, Journal* journal) {
  absl::Status status = journal->Append(next.record);
  if (!status.ok() && CanStillTurnBack(next.record.step)) {
    next = Decide(record, Event::kRefused, FailureOf(status), {});
    status = journal->Append(next.record);
  }
  // The escrow is kept, and a resolve tries again. The first cause stays what it is, so why this
  // was not begun is said beside it.
  if (!status.ok() && MustBeOnRecord(record, next.record)) {
    next = Decide(record, Event::kUnreachable, FailureOf(status), {});
    if (next.record.journal_failure.none()) next.record.journal_failure = FailureOf(status);
    status = journal->Append(next.record);
  }
  if (!status.ok() && next.record.journal_failure.none()) {
    next.record.journal_failure = FailureOf(status);
  }
  return next;
}

// The facts of `update`; what the machine decides and what was asked for stays as it was.
Migration WithFacts(const Migration& record, Migration update) {
  update.id = record.id;
  update.request = record.request;
  update.state = record.state;
  update.step = record.step;
  update.owner = record.owner;
  update.revision = record.revision;
  update.cancel_requested = record.cancel_requested;
  update.failure = record.failure;
  update.outcome_after_rollback = record.outcome_after_rollback;
  update.journal_failure = record.journal_failure;
  update.create_time_unix_ns = record.create_time_unix_ns;
  update.end_time_unix_ns = record.end_time_unix_ns;
  update.boot_id = record.boot_id;
  return update;
}

}  // namespace

Migration Drive(Migration record, Event first, const Failure& why, const DriverContext& context) {
  Event event = first;
  Failure cause = why;
  for (size_t transitions = 0; transitions < kMaxTransitions; ++transitions) {
    Advanced next = Decide(record, event, cause, StopOf(*context.interrupt));
    next = Announce(record, std::move(next), context.journal);
    record = std::move(next.record);
    context.publish(record);
    if (next.effect == Effect::kNone) return record;

    Outcome outcome = context.effects->Perform(next.effect, record, *context.interrupt);
    record = WithFacts(record, std::move(outcome.update));
    event = outcome.event;
    cause = std::move(outcome.cause);
  }
  // Every drive ends within the bound (machine_test), so this is not reached; a loop without a
  // bound would be worse.
  record = Abandon(record, {std::string(reason::kTooManyTransitions), "a bug of rehomed"});
  record.end_time_unix_ns = UnixNanos();
  const absl::Status status = context.journal->Append(record);
  if (!status.ok()) record.journal_failure = FailureOf(status);
  context.publish(record);
  return record;
}

}  // namespace rehome
