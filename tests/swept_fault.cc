// SPDX-License-Identifier: Apache-2.0
#include "tests/swept_fault.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/sim/fault_injector.h"
#include "tests/syscall_sweep/daemon_calls.h"

namespace rehome {
namespace {

const char* FaultName(MessageFault fault) {
  switch (fault) {
    case MessageFault::kNone:
      return "none";
    case MessageFault::kCut:
      return "cut";
    case MessageFault::kDrop:
      return "dropped";
    case MessageFault::kGarble:
      return "garbled";
  }
  return "?";
}

}  // namespace

FaultOperation KernelCall(const std::string& name) {
  return ParseFaultPlan(absl::StrCat(name, ":1:EINVAL:once"), /*link_ioctl_number=*/0)
      ->front()
      .operation;
}

bool FailsTheGuest(const SweptFault& fault) {
  static const FaultOperation run = KernelCall("KVM_RUN");
  return fault.what == SweptFault::What::kKernelCall && fault.operation == run;
}

std::string Describe(const SweptFault& fault) {
  if (fault.what == SweptFault::What::kNothing) return "no fault";
  const std::string tail = absl::StrCat(" #", fault.nth, fault.once ? " once" : " for good");
  if (fault.what == SweptFault::What::kDaemonCall) {
    return absl::StrCat("daemon: ", NameOf(fault.call), " ", strerrorname_np(fault.error),
                        fault.every_second ? " every second time" : tail);
  }
  const char* side = fault.side == Side::kSource ? "source: " : "target: ";
  if (fault.what == SweptFault::What::kKernelCall) {
    return absl::StrCat(side, FaultOperationName(fault.operation), " ",
                        strerrorname_np(fault.error), tail);
  }
  return absl::StrCat(side, "message ",
                      fault.direction == Direction::kToDaemon ? "to daemon " : "to agent ",
                      FaultName(fault.message), tail);
}

}  // namespace rehome
