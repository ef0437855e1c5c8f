// SPDX-License-Identifier: Apache-2.0
//
// Faults between clone and exec. There the daemon's child makes its system calls without libc
// (daemon/child_process.cc), so no symbol stands in the way; a seccomp filter in the child does.
#ifndef REHOME_TESTS_SYSCALL_SWEEP_CHILD_FAULTS_H_
#define REHOME_TESTS_SYSCALL_SWEEP_CHILD_FAULTS_H_

#include "tests/syscall_sweep/syscall_fault_page.h"

namespace rehome {

// What a child that shares our memory is to run.
struct ChildEntry {
  int (*run)(void*) = nullptr;
  void* argument = nullptr;
};

// Counts the calls that the child is going to make, and gives what it has to run: `entry`, behind
// the filter if one of these calls has to fail. The result is static storage: REQUIRES that the
// child before has come to its exec or is dead.
ChildEntry PrepareChild(SyscallFaultPage* page, const ChildEntry& entry);

}  // namespace rehome

#endif  // REHOME_TESTS_SYSCALL_SWEEP_CHILD_FAULTS_H_
