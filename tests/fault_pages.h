// SPDX-License-Identifier: Apache-2.0
//
// The pages through which one sweep's host steers the faults of its sources, of its targets and of
// its daemon.
#ifndef REHOME_TESTS_FAULT_PAGES_H_
#define REHOME_TESTS_FAULT_PAGES_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvmglue/sim/fault_operation.h"
#include "kvmglue/sim/fault_page.h"
#include "tests/harness/process.h"
#include "tests/message_fault_page.h"
#include "tests/swept_fault.h"
#include "tests/syscall_sweep/syscall_fault_page.h"

namespace rehome {

// What there is to fail on one side.
struct SideCounts {
  std::map<FaultOperation, uint64_t> calls;
  uint64_t messages[2] = {};  // by Direction
};

// By DaemonCall.
using DaemonCounts = std::array<uint64_t, kDaemonCalls>;

// Not thread-safe.
class FaultPages {
 public:
  // Makes the pages, once.
  absl::Status Open();

  // What a VMM of that side is started with.
  std::vector<std::string> ArgumentsFor(Side side) const;
  std::map<std::string, std::string> EnvironmentFor(Side side) const;

  // What the daemon is started with.
  std::map<std::string, std::string> EnvironmentForDaemon() const;

  // All of them count from now on, and one of them fails. REQUIRES: disarmed.
  void Arm(const SweptFault& fault);
  void Disarm();
  // Of the last Arm(), also once it is disarmed.
  SideCounts Counts(Side side) const;
  DaemonCounts CountsOfDaemon() const;
  uint64_t injected() const;

 private:
  struct Pages {
    FaultPage* kernel = nullptr;
    MessageFaultPage* messages = nullptr;
  };
  const Pages& Of(Side side) const { return pages_[static_cast<int>(side)]; }
  std::string KernelFile(Side side) const;
  std::string MessageFile(Side side) const;
  std::string DaemonFile() const;

  harness::TempDir directory_;
  Pages pages_[2];  // by Side
  SyscallFaultPage* daemon_ = nullptr;
};

}  // namespace rehome

#endif  // REHOME_TESTS_FAULT_PAGES_H_
