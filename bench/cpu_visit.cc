// SPDX-License-Identifier: Apache-2.0
#include "bench/cpu_visit.h"

#include <sched.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace rehome::bench {
namespace {

// The least: above every ordinary thread, which is all that it needs.
constexpr int kPriority = 1;

}  // namespace

absl::Status VisitEveryCpu() {
  cpu_set_t before;
  if (sched_getaffinity(0, sizeof(before), &before) != 0) {
    return absl::ErrnoToStatus(errno, "sched_getaffinity");
  }
  if (CPU_COUNT(&before) != sysconf(_SC_NPROCESSORS_ONLN)) {
    return absl::FailedPreconditionError("there are CPUs on which this process may not run");
  }
  // Without it a visit waits until the scheduler finds that it is its turn.
  const sched_param priority = {.sched_priority = kPriority};
  const bool is_urgent = sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
  absl::Status result;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &before)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    // Returns on that CPU (kernel/sched/core.c, affine_move_task()).
    if (sched_setaffinity(0, sizeof(one), &one) != 0 || sched_getcpu() != cpu) {
      result = absl::ErrnoToStatus(errno, absl::StrCat("CPU ", cpu));
      break;
    }
  }
  if (is_urgent) {
    const sched_param none = {.sched_priority = 0};
    sched_setscheduler(0, SCHED_OTHER, &none);
  }
  sched_setaffinity(0, sizeof(before), &before);
  return result;
}

}  // namespace rehome::bench
