// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_options.h"

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

HostCapabilities Host(bool kvm, bool guest_memfd_mmap) {
  const auto capability = [](const char* name, bool available) {
    return Capability{.name = name,
                      .available = available,
                      .reason = available ? "" : "KVM_UNAVAILABLE",
                      .detail = available ? "" : "open: No such file or directory"};
  };
  return {
      .capabilities = {capability("kvm", kvm), capability("guest_memfd_mmap", guest_memfd_mmap)}};
}

TEST(DemoPlanTest, TakesTheRealKernelWhereItWorks) {
  const DemoPlan plan = PlanDemo({}, Host(true, true));
  EXPECT_EQ(plan.backend, "kvm");
  EXPECT_EQ(plan.vm_type, "default");
  EXPECT_EQ(plan.memory_kind, "");
  EXPECT_EQ(plan.memory_name, "guest_memfd");
}

TEST(DemoPlanTest, FallsBackToTheSimulatedOneAndSaysWhy) {
  const DemoPlan plan = PlanDemo({}, Host(false, false));
  EXPECT_EQ(plan.backend, "sim");
  EXPECT_NE(plan.backend_reason.find("No such file"), std::string::npos);
  EXPECT_EQ(plan.vm_type, "sw-protected");
}

TEST(DemoPlanTest, DoesAsItIsTold) {
  const DemoPlan plan = PlanDemo({.backend = "sim", .vm_type = "sev"}, Host(true, true));
  EXPECT_EQ(plan.backend, "sim");
  EXPECT_EQ(plan.vm_type, "sev");
  EXPECT_EQ(plan.memory_name, "memfd");
  // A kernel that does not work is asked for all the same: its error says more than a guess.
  EXPECT_EQ(PlanDemo({.backend = "kvm"}, Host(false, false)).backend, "kvm");
}

TEST(DemoPlanTest, AnOlderKernelGetsAMemfd) {
  const DemoPlan plan = PlanDemo({}, Host(true, false));
  EXPECT_EQ(plan.backend, "kvm");
  EXPECT_EQ(plan.memory_kind, "memfd");
  EXPECT_NE(plan.memory_name.find("memfd (no guest_memfd"), std::string::npos);
}

}  // namespace
}  // namespace rehome::bench
