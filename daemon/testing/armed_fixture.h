// SPDX-License-Identifier: Apache-2.0
//
// The world of effects_world.h just before START.
#ifndef REHOME_DAEMON_TESTING_ARMED_FIXTURE_H_
#define REHOME_DAEMON_TESTING_ARMED_FIXTURE_H_

#include <gtest/gtest.h>

#include <functional>

#include "daemon/machine.h"
#include "daemon/testing/effects_world.h"

namespace rehome {

// A world whose both sides are armed, with the block as a VMM sees it. The targets of these tests
// have their memory checked elsewhere, so the mapping check is taken out by linking: strategy LINK.
class HandoverTest : public testing::Test {
 protected:
  void Arm(FencePolicy policy) {
    world_.host.capabilities.push_back({.name = "guest_memfd_link", .available = true});
    world_.source->script.describe = [this](const std::string&, bool) {
      VmDescription vm = world_.Describe();
      vm.layout.slots[0].flags = kMemslotGuestMemfd;
      return vm;
    };
    world_.spoil_target = [](VmDescription& vm) { vm.layout.slots[0].flags = kMemslotGuestMemfd; };
    record_ = world_.Armed(policy);
    ASSERT_EQ(record_.strategy, Strategy::kLink);
    ASSERT_TRUE(world_.block_fd.valid());
    block_ = world_.MapBlock();
  }
  void TearDown() override {
    if (block_.shared != nullptr) rehome_block_unmap(&block_);
  }
  // The VMMs' part, done when START arrives.
  void OnStart(std::function<void()> act) {
    world_.source->script.start = [act](const std::string&) {
      act();
      return absl::OkStatus();
    };
  }

  EffectsWorld world_;
  Migration record_;
  rehome_block block_{};
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_ARMED_FIXTURE_H_
