// SPDX-License-Identifier: Apache-2.0
//
// What must be true when a migration has ended, and for exactly which faults it may end without an
// owner of the guest. Nothing here waits or looks anywhere: it compares a record with what was
// seen.
#ifndef REHOME_TESTS_FAULT_JUDGE_H_
#define REHOME_TESTS_FAULT_JUDGE_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "client/migration_client.h"
#include "tests/swept_fault.h"

namespace rehome {

// What was seen of the processes after the migration's end.
struct SeenProcesses {
  pid_t source = 0;
  bool source_lives = true;
  std::vector<pid_t> running;  // those that run the guest
};

// The guest may be gone: its VMM could not run it any more, where it was.
bool MayBeLost(const SweptFault& fault);
// Nobody may know who has the guest, for as long as the fault lasts.
bool MayBeUndecided(const SweptFault& fault, const SweptStrategy& strategy);
// The guest may be known to be the target's, and the migration be called FAILED all the same.
bool MayBeUnconfirmed(const SweptFault& fault);

// Sentences; empty if all that must be true is. `lifted`: the fault is over, and the migration was
// taken up again (ResolveMigration).
std::vector<std::string> JudgeRecord(const SweptFault& fault, bool lifted,
                                     const SweptStrategy& strategy, const v1::Migration& record,
                                     const SeenProcesses& seen);

}  // namespace rehome

#endif  // REHOME_TESTS_FAULT_JUDGE_H_
