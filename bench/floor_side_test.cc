// SPDX-License-Identifier: Apache-2.0
#include "bench/floor_side.h"

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

constexpr char kHop[] =
    R"({"hop":1,"blackout_us":284.2,"last_vcpu_us":290.1,"guest_gap_us":430.3,"stop_vcpus_us":47.6,)"
    R"("save_state_us":58.4,"restore_state_us":149.3,"resume_us":0.9})"
    "\n";

TEST(FloorOutputTest, EachLineIsAHop) {
  const auto samples = ParseFloorOutput(std::string(kHop) + kHop);
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->size(), 2u);
  const HopSample& hop = (*samples)[1];
  EXPECT_EQ(hop.blackout_us, 284.2);
  EXPECT_EQ(hop.guest_gap_us, 430.3);
  ASSERT_EQ(hop.phases_us.size(), 4u);
  EXPECT_EQ(hop.phases_us[1], (std::pair<std::string, double>("save_state", 58.4)));
}

TEST(FloorOutputTest, WhatIsNoHopIsAnErrorAndNotLeftOut) {
  EXPECT_FALSE(ParseFloorOutput("floor: KVM_RUN: Invalid argument\n").ok());
  EXPECT_FALSE(ParseFloorOutput(std::string(kHop) + "{\"hop\":2}\n").ok());
  EXPECT_FALSE(ParseFloorOutput("{\"hop\":1,\"blackout_us\":-5}\n").ok());
}

}  // namespace
}  // namespace rehome::bench
