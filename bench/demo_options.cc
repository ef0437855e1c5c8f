// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_options.h"

#include "absl/strings/str_cat.h"

namespace rehome::bench {
namespace {

std::string WhyNot(const HostCapabilities& host, const char* name) {
  const Capability* capability = host.Find(name);
  return capability != nullptr ? absl::StrCat(capability->reason, ", ", capability->detail)
                               : "not probed";
}

}  // namespace

DemoPlan PlanDemo(const DemoOptions& options, const HostCapabilities& kvm) {
  DemoPlan plan;
  const bool works = kvm.Has("kvm");
  if (!options.backend.empty()) {
    plan.backend = options.backend;
    plan.backend_reason = "as asked for";
  } else if (works) {
    plan.backend = "kvm";
    plan.backend_reason = "/dev/kvm works here";
  } else {
    plan.backend = "sim";
    plan.backend_reason = absl::StrCat("no /dev/kvm here: ", WhyNot(kvm, "kvm"));
  }
  const bool real = plan.backend == "kvm";
  plan.vm_type = !options.vm_type.empty() ? options.vm_type : real ? "default" : "sw-protected";
  plan.memory_name = "guest_memfd";
  if (plan.vm_type == "sev" || plan.vm_type == "sev-es") {
    plan.memory_name = "memfd";  // SEV guests live in mapped memory
  } else if (real && plan.vm_type == "default" && !kvm.Has("guest_memfd_mmap")) {
    plan.memory_kind = "memfd";
    plan.memory_name = absl::StrCat(
        "memfd (no guest_memfd that can be mapped: ", WhyNot(kvm, "guest_memfd_mmap"), ")");
  }
  return plan;
}

}  // namespace rehome::bench
