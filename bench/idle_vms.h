// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_IDLE_VMS_H_
#define REHOME_BENCH_IDLE_VMS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/harness/fake_agent.h"

namespace rehome::bench {

// VMs that are registered with a daemon and do nothing: connections of this process, two
// descriptors each, here and in the daemon (RaiseDescriptorLimit()). Registered until destroyed.
// Not thread-safe.
class IdleVms {
 public:
  // Registers more until there are `count`. Errors name the refusal; those registered stay.
  absl::Status GrowTo(const std::string& agent_socket, int count);
  size_t size() const { return agents_.size(); }

 private:
  std::vector<harness::FakeAgent> agents_;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_IDLE_VMS_H_
