// SPDX-License-Identifier: Apache-2.0
//
// What benchmarks of a whole daemon with many VMs share: this process speaks for all of them.
#ifndef REHOME_BENCH_MANY_VMS_H_
#define REHOME_BENCH_MANY_VMS_H_

#include <utility>

#include "absl/status/statusor.h"

namespace rehome::bench {

// Ends the program, with `what` failed and why on stderr: a benchmark has nothing to clean up.
void Check(const absl::Status& status, const char* what);

template <typename T>
T Check(absl::StatusOr<T> value, const char* what) {
  Check(value.status(), what);
  return *std::move(value);
}

// RLIMIT_NOFILE for us and, inherited, for the daemon: two descriptors for each VM on either side.
// As far as the hard limit goes.
void RaiseDescriptorLimit(int vms);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_MANY_VMS_H_
