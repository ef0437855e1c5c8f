// SPDX-License-Identifier: Apache-2.0
//
// A host on which one migration after another is run, each with one fault in it, and each judged by
// what must be true whatever fails.
#ifndef REHOME_TESTS_FAULT_SWEEP_H_
#define REHOME_TESTS_FAULT_SWEEP_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/sim/fault_operation.h"
#include "kvmglue/sim/fault_page.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "tests/message_fault_page.h"

namespace rehome {

enum class Side { kSource, kTarget };

// One way in which memory and context move, and a VM that moves like that.
struct SweptStrategy {
  std::string kernel;
  std::string vm_type;
  std::vector<std::string> vmm_arguments;
  v1::Migration::Strategy strategy = v1::Migration::MAP;
  bool moves() const {
    return strategy == v1::Migration::LINK_MOVE || strategy == v1::Migration::MAP_MOVE;
  }
};

struct SweptFault {
  enum class What { kNothing, kKernelCall, kMessage };
  What what = What::kNothing;
  Side side = Side::kSource;
  uint64_t nth = 1;
  bool once = true;
  // kKernelCall
  FaultOperation operation;
  int error = 0;
  // kMessage
  MessageFault message = MessageFault::kNone;
  Direction direction = Direction::kToDaemon;
};
std::string Describe(const SweptFault& fault);

// What there is to fail on one side.
struct SideCounts {
  std::map<FaultOperation, uint64_t> calls;
  uint64_t messages[2] = {};  // by Direction
};

struct SweptRun {
  v1::Migration record;
  std::vector<std::string> problems;  // sentences; empty: all that must be true is
  SideCounts counts[2];               // by Side
  uint64_t injected = 0;
};

// Not thread-safe; several may live beside each other.
class SweptHost {
 public:
  explicit SweptHost(SweptStrategy strategy) : strategy_(std::move(strategy)) {}

  // A new guest, a migration with that fault, and the judgement. An error: the host itself failed.
  absl::StatusOr<SweptRun> Run(const SweptFault& fault);

 private:
  struct Pages {
    FaultPage* kernel = nullptr;
    MessageFaultPage* messages = nullptr;
  };
  // Processes that have the guest's memory mapped, and those of them that run it.
  struct Runners {
    std::vector<pid_t> mapping;
    std::vector<pid_t> running;
  };

  absl::Status OpenPages();
  absl::Status EnsureHost();
  std::vector<std::string> ArgumentsFor(Side side) const;
  std::map<std::string, std::string> EnvironmentFor(Side side) const;
  void Arm(const SweptFault& fault);
  void Disarm(SweptRun& run);

  absl::Status Migrate(SweptRun& run);
  Runners FindRunners() const;
  void Judge(const SweptFault& fault, pid_t source, const harness::Footprint& before,
             const std::vector<InodeId>& inodes, SweptRun& run);
  void JudgeRecord(const SweptFault& fault, pid_t source, const std::vector<pid_t>& running,
                   SweptRun& run);
  void JudgeGuest(pid_t runner, SweptRun& run);
  void EndGuest();

  const SweptStrategy strategy_;
  harness::TempDir directory_;
  Pages pages_[2];  // by Side
  std::unique_ptr<harness::HostUnderTest> host_;
};

}  // namespace rehome

#endif  // REHOME_TESTS_FAULT_SWEEP_H_
