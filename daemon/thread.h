// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_THREAD_H_
#define REHOME_DAEMON_THREAD_H_

#include <functional>
#include <thread>

#include "absl/status/statusor.h"

namespace rehome {

// std::thread without its exception: RESOURCE_EXHAUSTED / THREAD_LIMIT if none can be started now
// (RLIMIT_NPROC, pids.max of the cgroup, no memory). The caller joins it.
absl::StatusOr<std::thread> StartThread(std::function<void()> body);

}  // namespace rehome

#endif  // REHOME_DAEMON_THREAD_H_
