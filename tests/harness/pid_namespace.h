// SPDX-License-Identifier: Apache-2.0
//
// A process in a PID namespace of its own with a /proc of its own: what it and its children see of
// the host is themselves alone, so that a search of /proc is the same each time. When it ends, the
// kernel ends all that are left in there.
#ifndef REHOME_TESTS_HARNESS_PID_NAMESPACE_H_
#define REHOME_TESTS_HARNESS_PID_NAMESPACE_H_

#include <sys/types.h>

#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace rehome::harness {

// Empty if one can be made here, else why not: it takes CAP_SYS_ADMIN.
std::string WhyNoPidNamespace();

// Forks; `body` runs as process 1 of the namespace, and what it returns is the exit status. The
// result is a child of the caller, which has to wait for it (waitpid(2)); it dies with the caller.
// REQUIRES that the caller has one thread. An exit status of 125: the namespace could not be made.
absl::StatusOr<pid_t> ForkIntoPidNamespace(const std::function<int()>& body);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_PID_NAMESPACE_H_
