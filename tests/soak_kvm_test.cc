// SPDX-License-Identifier: Apache-2.0
//
// What one hop leaves behind by mistake, fifty hops make visible. (A thousand: ./dev demo --hops
// 1000.)
#include <gtest/gtest.h>

#include <string>

#include "kvmglue/why_no_kvm.h"
#include "tests/harness/proc.h"
#include "tests/scenario.h"

namespace rehome {
namespace {

using v1::Migration;

class SoakTest : public Scenario {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }

  void Hop() {
    v1::CreateMigrationRequest request = RequestFor(harness::ProfileOfVersion(2));
    request.set_fence_policy(Migration::AFTER_RESUME);
    ExpectMoved(Migrate(request), guest(), {.policy = Migration::AFTER_RESUME});
  }
  size_t DescriptorsOf(pid_t pid) {
    const auto descriptors = harness::OpenDescriptors(pid);
    EXPECT_TRUE(descriptors.ok()) << descriptors.status();
    size_t count = 0;
    if (descriptors.ok()) {
      for (const auto& [target, open] : *descriptors) count += open;
    }
    return count;
  }
};

TEST_F(SoakTest, FiftyHopsLeaveNoDescriptorAndNoProcessBehind) {
  constexpr int kHops = 50;
  StartHost({.kernel = "kvm"});
  StartGuest({.vcpus = 2});
  // The first hop lets the daemon open what it keeps.
  Hop();
  const size_t of_daemon = DescriptorsOf(host().daemon().pid());
  const size_t of_vmm = DescriptorsOf(guest().pid);
  for (int hop = 1; hop <= kHops && !HasFailure(); ++hop) Hop();
  // The last migration's thread drops what it held after the record has become final.
  size_t now = 0;
  EXPECT_TRUE(Eventually([&] {
    now = DescriptorsOf(host().daemon().pid());
    return now == of_daemon;
  })) << "rehomed had "
      << of_daemon << " descriptors after the first hop, now " << now;
  EXPECT_TRUE(Eventually([&] {
    now = DescriptorsOf(guest().pid);
    return now == of_vmm;
  })) << "a VMM had "
      << of_vmm << " descriptors after the first hop, now " << now;
  // Processes and holders of guest memory are counted after every hop: ExpectMoved().
}

}  // namespace
}  // namespace rehome
