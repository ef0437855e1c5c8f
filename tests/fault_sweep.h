// SPDX-License-Identifier: Apache-2.0
//
// A host on which one migration after another is run, each with one fault in it, and each judged by
// what must be true whatever fails.
#ifndef REHOME_TESTS_FAULT_SWEEP_H_
#define REHOME_TESTS_FAULT_SWEEP_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/fault_judge.h"
#include "tests/fault_pages.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "tests/swept_fault.h"

namespace rehome {

struct SweptRun {
  v1::Migration record;               // as the migration ended while the fault was there
  std::vector<std::string> problems;  // sentences; empty: all that must be true is
  SideCounts counts[2];               // by Side
  DaemonCounts daemon_calls = {};
  uint64_t injected = 0;
};

// Not thread-safe; several may live beside each other.
class SweptHost {
 public:
  explicit SweptHost(SweptStrategy strategy) : strategy_(std::move(strategy)) {}

  // A new guest, a migration with that fault, and the judgement. An error: the host itself failed.
  absl::StatusOr<SweptRun> Run(const SweptFault& fault);

 private:
  // The guest of one run, as it was before its migration.
  struct Guest {
    harness::Process vmm;
    pid_t source = 0;
    std::vector<InodeId> inodes;
    harness::Process stranger;  // of a strategy that is held
    harness::Footprint before;
  };

  absl::Status EnsureHost();
  absl::StatusOr<Guest> StartGuest(const SweptFault& fault);
  absl::Status StartStranger(Guest& guest);
  // A daemon that lacks what it takes may say so at once.
  absl::Status Refused(const SweptFault& fault, const absl::Status& why, SweptRun& run);
  absl::Status Migrate(const SweptFault& fault, SweptRun& run);
  absl::StatusOr<v1::Migration> Watch(const std::string& name);
  // The last words between daemon and target come after the migration's end.
  void AwaitLastWords(const SweptRun& run);
  // Takes up again what is INDETERMINATE, now that nothing fails; how it ended.
  absl::StatusOr<v1::Migration> Resolve(const v1::Migration& record);
  // Looks who runs the guest, and judges by it the record and the guest itself.
  std::vector<pid_t> JudgeNow(const SweptFault& fault, bool lifted, const Guest& guest,
                              const v1::Migration& record, SweptRun& run);
  // The same, and what must be true of the host once a migration is settled.
  void JudgeEnd(const SweptFault& fault, bool lifted, const Guest& guest,
                const v1::Migration& record, SweptRun& run);
  void JudgeGuest(pid_t runner, SweptRun& run);
  // Who runs the guest; `expected` is given time to show it.
  std::vector<pid_t> FindRunners(pid_t expected) const;
  void EndGuest(Guest& guest);

  const SweptStrategy strategy_;
  FaultPages pages_;
  std::unique_ptr<harness::HostUnderTest> host_;
};

}  // namespace rehome

#endif  // REHOME_TESTS_FAULT_SWEEP_H_
