// SPDX-License-Identifier: Apache-2.0
#include "bench/many_vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>

namespace rehome::bench {
namespace {

// A connection and the pidfd of its process.
constexpr rlim_t kDescriptorsPerVm = 2;
// Logs, sockets, the journal, gRPC.
constexpr rlim_t kDescriptorsBeside = 512;

}  // namespace

void Check(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  fprintf(stderr, "bench: %s: %s\n", what, status.ToString().c_str());
  exit(1);
}

void RaiseDescriptorLimit(int vms) {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t wanted = kDescriptorsBeside + kDescriptorsPerVm * static_cast<rlim_t>(vms);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace rehome::bench
