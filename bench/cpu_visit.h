// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_CPU_VISIT_H_
#define REHOME_BENCH_CPU_VISIT_H_

#include "absl/status/status.h"

namespace rehome::bench {

// Runs the calling thread once on each CPU that is online, at a real-time priority where it may
// have one, and leaves it where it was.
//
// After SIGKILL has been sent to a process this proves that no task of it runs user or guest code
// any more, or will: from when the call that sent it returns, the signal is pending for every task
// (kernel/signal.c, complete_signal()), and a task with a fatal signal pending never returns to
// user mode (exit_to_user_mode_loop() delivers it) nor enters a guest (xfer_to_guest_mode_work).
// Left are those that were in user or guest mode on some CPU at that moment; of such a task this
// thread has taken the CPU since. It is no proof that a system call of theirs is over, as
// PF_EXITING in every task is.
//
// FAILED_PRECONDITION if there is a CPU on which this thread may not run (cpuset); the thread may
// then have another affinity. Errors of sched_setaffinity(2).
absl::Status VisitEveryCpu();

}  // namespace rehome::bench

#endif  // REHOME_BENCH_CPU_VISIT_H_
