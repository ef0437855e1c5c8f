// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_TESTS_CHAOS_THREADS_H_
#define REHOME_TESTS_CHAOS_THREADS_H_

#include <sys/types.h>

#include "absl/status/status.h"

namespace rehome::chaos {

// Letters of field 3 of /proc/PID/stat, proc(5).
inline constexpr char kStoppedOrDead[] = "TZX";
inline constexpr char kDead[] = "ZX";

// Returns once every thread of it is in one of the states; of a process that is gone, at once.
// INTERNAL: one is not within kArriveTimeout of stage.h.
absl::Status AwaitThreads(pid_t pid, const char* states);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_THREADS_H_
