// SPDX-License-Identifier: Apache-2.0
#include "client/vm_filter.h"

#include <gtest/gtest.h>

#include "client/testing/sample_records.h"

namespace rehome {
namespace {

// web-1, DEFAULT, "rehome-vmm 1.0".
bool Selects(const std::vector<std::string>& conditions) {
  VmFilter filter;
  for (const std::string& condition : conditions) {
    const absl::Status status = filter.Add(condition);
    EXPECT_TRUE(status.ok()) << status;
  }
  return filter.Selects(testing::SampleVm());
}

TEST(VmFilterTest, WithoutConditionsEveryVmIsMeant) { EXPECT_TRUE(Selects({})); }

TEST(VmFilterTest, ComparesEachField) {
  EXPECT_TRUE(Selects({"vm=web-*"}));
  EXPECT_FALSE(Selects({"vm=web"})) << "the whole id, not a part of it";
  EXPECT_TRUE(Selects({"vmm=rehome-vmm 1.*"}));
  EXPECT_FALSE(Selects({"vmm=rehome-vmm 2.*"}));
  EXPECT_TRUE(Selects({"type=DEFAULT"}));
  EXPECT_FALSE(Selects({"type=default"})) << "case counts";
}

TEST(VmFilterTest, OneOfSeveralPatternsIsEnough) {
  EXPECT_TRUE(Selects({"vm=db-*,web-?"}));
  EXPECT_FALSE(Selects({"vm=db-*,mail-?"}));
}

TEST(VmFilterTest, NegationExcludesAllOfItsPatterns) {
  EXPECT_FALSE(Selects({"vm!=db-*,web-*"}));
  EXPECT_TRUE(Selects({"vm!=db-*,mail-*"}));
}

TEST(VmFilterTest, AllConditionsMustHold) {
  EXPECT_TRUE(Selects({"vm=web-*", "type=DEFAULT"}));
  EXPECT_FALSE(Selects({"vm=web-*", "type!=DEFAULT"}));
}

TEST(VmFilterTest, AConnectedVmmThatSaidNoNameMatchesTheGlobForAll) {
  v1::VirtualMachine vm = testing::SampleVm();
  vm.mutable_process()->clear_vmm();
  VmFilter filter;
  ASSERT_TRUE(filter.Add("vmm=*").ok());
  EXPECT_TRUE(filter.Selects(vm));
}

TEST(VmFilterTest, WhatIsNoConditionIsRefusedAndNotAdded) {
  VmFilter filter;
  for (const char* wrong : {"", "web-*", "name=web-*", "vm=", "vm=a,,b", "=x", "!=x"}) {
    EXPECT_EQ(filter.Add(wrong).code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
  EXPECT_TRUE(filter.empty());
}

}  // namespace
}  // namespace rehome
