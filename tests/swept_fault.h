// SPDX-License-Identifier: Apache-2.0
//
// The faults of the sweep: one kernel call or one message of one side, or one system call of the
// daemon, failed once or for good.
#ifndef REHOME_TESTS_SWEPT_FAULT_H_
#define REHOME_TESTS_SWEPT_FAULT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/migration_client.h"
#include "kvmglue/sim/fault_operation.h"
#include "tests/message_fault_page.h"
#include "tests/syscall_sweep/syscall_fault_page.h"

namespace rehome {

enum class Side { kSource, kTarget };

// One way in which memory and context move, and a VM that moves like that.
struct SweptStrategy {
  std::string kernel;
  std::string vm_type;
  std::vector<std::string> vmm_arguments;
  v1::Migration::Strategy strategy = v1::Migration::MAP;
  // What is asked for; with MOVE the kernel is the fence.
  v1::Migration::FencePolicy fence_policy = v1::Migration::FENCE_POLICY_UNSPECIFIED;
  // A process that has nothing to do with it holds the guest's memory all the time, so that no
  // migration may be begun.
  bool held = false;
  bool moves() const {
    return strategy == v1::Migration::LINK_MOVE || strategy == v1::Migration::MAP_MOVE;
  }
};

// The place of a message among those of its side and direction (docs/agent-protocol.md). To the
// source: DESCRIBE, TRACE, ARM_SOURCE, START; from it the replies to these, of which TRACE has
// none.
inline constexpr uint64_t kSourceStart = 4;
inline constexpr uint64_t kSourceStarted = 3;
// From the target: HELLO, the replies to PREPARE and ARM_TARGET, the event FIRST_RUN, REGISTER.
inline constexpr uint64_t kTargetFirstRun = 4;
// To the target: the reply to HELLO, PREPARE, TRACE, ARM_TARGET, the reply to REGISTER.
inline constexpr uint64_t kTargetRegistered = 5;

struct SweptFault {
  enum class What { kNothing, kKernelCall, kMessage, kDaemonCall };
  What what = What::kNothing;
  Side side = Side::kSource;
  uint64_t nth = 1;
  bool once = true;  // or from that one on, as long as the fault is armed
  // kKernelCall
  FaultOperation operation;
  // kDaemonCall, which has no side
  DaemonCall call = DaemonCall::kOpen;
  bool every_second = false;  // instead of the Nth
  // of either
  int error = 0;
  // kMessage
  MessageFault message = MessageFault::kNone;
  Direction direction = Direction::kToDaemon;
};

// "KVM_RUN", "MAP" (fault_operation.h). REQUIRES: a name that the project knows.
FaultOperation KernelCall(const std::string& name);

// KVM_RUN is the guest itself: what fails it ends the guest, whoever has it.
bool FailsTheGuest(const SweptFault& fault);

std::string Describe(const SweptFault& fault);

}  // namespace rehome

#endif  // REHOME_TESTS_SWEPT_FAULT_H_
