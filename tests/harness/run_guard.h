// SPDX-License-Identifier: Apache-2.0
//
// Whoever is killed with SIGKILL cannot tidy up, and a VMM is made to outlive its daemon. So a
// second process waits for the end of a run, and then ends what is left of its hosts.
#ifndef REHOME_TESTS_HARNESS_RUN_GUARD_H_
#define REHOME_TESTS_HARNESS_RUN_GUARD_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "tests/harness/process.h"

namespace rehome::harness {

// Not reached: a guard that is killed as well; a process that has not been given kHostVariable, or
// that is being started at this moment and has not come to exec.
class RunGuard {
 public:
  // Every TempDir from now on, and with it every host, is below the guard's directory.
  // REQUIRES: this process has one thread, and no other guard.
  static absl::StatusOr<std::unique_ptr<RunGuard>> Start();
  // Returns once nothing of the run is left.
  ~RunGuard();
  RunGuard(const RunGuard&) = delete;
  RunGuard& operator=(const RunGuard&) = delete;

  const std::string& directory() const { return directory_.path(); }

 private:
  RunGuard() = default;

  TempDir directory_;
  UniqueFd alive_;  // a pipe's end that only this process has
  pid_t guard_ = -1;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_RUN_GUARD_H_
