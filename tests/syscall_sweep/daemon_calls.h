// SPDX-License-Identifier: Apache-2.0
//
// With what each kind of system call of the daemon is failed: the one table.
#ifndef REHOME_TESTS_SYSCALL_SWEEP_DAEMON_CALLS_H_
#define REHOME_TESTS_SYSCALL_SWEEP_DAEMON_CALLS_H_

#include <span>

#include "tests/syscall_sweep/syscall_fault_page.h"

namespace rehome {

enum class HowOften {
  kEach,         // every Nth fails, once and for good
  kOnce,         // every Nth fails, once
  kAll,          // all fail: a kernel says this always or never
  kEverySecond,  // all, and each is made a second time: a signal came
};

struct DaemonCallError {
  DaemonCall call;
  int error;
  HowOften how_often;
};

std::span<const DaemonCallError> DaemonCallErrors();

// As in a manual page.
const char* NameOf(DaemonCall call);

}  // namespace rehome

#endif  // REHOME_TESTS_SYSCALL_SWEEP_DAEMON_CALLS_H_
