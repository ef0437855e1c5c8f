// SPDX-License-Identifier: Apache-2.0
//
// Ways through the state machine for its tests.
#ifndef REHOME_DAEMON_TESTING_MACHINE_WALK_H_
#define REHOME_DAEMON_TESTING_MACHINE_WALK_H_

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"

namespace rehome {

inline const Failure kNoFailure;
inline const Failure kCause{"SOME_CAUSE", "as the test wants it"};
inline const Failure kCancelStop{std::string(reason::kCancelled), "cancelled"};
inline const Failure kDeadlineStop{std::string(reason::kDeadlineExceeded), "too late"};

inline std::vector<Step> AllSteps() {
  std::vector<Step> steps;
  for (size_t i = 1; i <= kStepCount; ++i) steps.push_back(static_cast<Step>(i));
  return steps;
}

inline std::vector<Event> AllEvents() {
  std::vector<Event> events;
  for (size_t i = 1; i <= kEventCount; ++i) events.push_back(static_cast<Event>(i));
  return events;
}

inline Migration FreshRecord() {
  Migration record;
  record.id = "m-0123456789abcdef";
  record.boot_id = "this-boot";
  record.revision = 1;
  return record;
}

inline void Prove(Migration* record) {
  record->memory_inodes = {{.device = 1, .inode = 2}};
  record->fence.process_exited = true;
  record->fence.search.memory = {
      {.inode = {.device = 1, .inode = 2},
       .holders = {{.pid = 3, .command = "vmm", .how = "fd", .holder_class = HolderClass::kTarget}},
       .foreign = 0}};
}

// The record after `events`, with `kCause` as the cause of each.
inline Migration After(const std::vector<Event>& events) {
  Migration record = FreshRecord();
  for (Event event : events) {
    const auto advanced = Advance(record, event, kCause, kNoFailure);
    EXPECT_TRUE(advanced.ok()) << advanced.status();
    record = advanced->record;
  }
  return record;
}

inline const std::vector<Event> kToArming = {Event::kAdmitted, Event::kPreflightPassed,
                                             Event::kTargetConnected, Event::kTargetPrepared};

inline std::vector<Event> Then(std::vector<Event> events, const std::vector<Event>& more) {
  events.insert(events.end(), more.begin(), more.end());
  return events;
}

inline const std::vector<Event> kToHandingOver = Then(kToArming, {Event::kArmed});
inline const std::vector<Event> kToFirstRun = Then(kToHandingOver, {Event::kVerdictRunning});

// All that transitions change and depend on, as text.
inline std::string KeyOf(const Migration& record) {
  const int interrupted =
      record.interrupted_step.has_value() ? static_cast<int>(*record.interrupted_step) : 0;
  return absl::StrCat(StepName(record.step), "|", MigrationStateName(record.state), "|",
                      GuestOwnerName(record.owner), "|", record.failure.reason, "|",
                      MigrationStateName(record.outcome_after_rollback), "|",
                      record.cancel_requested, record.fence.complete(record.memory_inodes), "|",
                      record.restarts, "|", interrupted, "|", record.rescue.attempts);
}

// Every record that any sequence of events can lead to, each reached once; `stops` are tried at
// every transition, and each record of a fencing step with and without a proof. With one restart
// and one rescue beyond the bound: more only count up.
inline std::vector<Migration> FindReachableRecords() {
  std::vector<Migration> todo = {FreshRecord()};
  std::vector<Migration> found;
  std::set<std::string> seen;
  while (!todo.empty()) {
    const Migration record = todo.back();
    todo.pop_back();
    if (record.restarts > 1 || record.rescue.attempts > kMaxRescueAttempts + 1) continue;
    if (!seen.insert(KeyOf(record)).second) continue;
    found.push_back(record);
    std::vector<Migration> variants = {record};
    if (record.step == Step::kFencing) {
      variants.push_back(record);
      Prove(&variants.back());
    }
    for (const Migration& variant : variants) {
      for (Event event : AllEvents()) {
        for (const Failure& stop : {kNoFailure, kCancelStop, kDeadlineStop}) {
          const auto advanced = Advance(variant, event, kCause, stop);
          if (advanced.ok()) todo.push_back(advanced->record);
        }
      }
    }
  }
  return found;
}

inline const std::vector<Migration>& ReachableRecords() {
  static const auto* records = new std::vector<Migration>(FindReachableRecords());
  return *records;
}

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_MACHINE_WALK_H_
