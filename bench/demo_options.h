// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_DEMO_OPTIONS_H_
#define REHOME_BENCH_DEMO_OPTIONS_H_

#include <cstdint>
#include <string>

#include "kvmglue/capabilities.h"

namespace rehome::bench {

// As typed; empty strings: not given.
struct DemoOptions {
  std::string backend;  // "kvm" or "sim"
  std::string vm_type;
  std::string fence;  // "before" or "after"
  uint32_t vcpus = 1;
  uint64_t memory_mib = 64;
  int hops = 5;
  bool json = false;
};

// What was not typed, decided.
struct DemoPlan {
  std::string backend;
  std::string backend_reason;  // why this one, for people
  std::string vm_type;
  std::string memory_kind;  // of the VMM's --memory-kind; "": the VM type's own
  std::string memory_name;  // for people
};

// `kvm` is what the real kernel of this host can do.
DemoPlan PlanDemo(const DemoOptions& options, const HostCapabilities& kvm);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_DEMO_OPTIONS_H_
