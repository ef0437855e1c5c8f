// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_result.h"

#include "bench/sample_hop.h"
#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

TEST(DemoResultTest, GoodHopsWithoutLeftoversAreGood) {
  DemoResult result;
  result.Add(GoodHop());
  result.Add(GoodHop());
  EXPECT_TRUE(result.good());
  EXPECT_TRUE(result.guest_intact());
}

TEST(DemoResultTest, NothingMeasuredIsNotGood) {
  EXPECT_FALSE(DemoResult().good());
  EXPECT_FALSE(DemoResult().guest_intact());
}

TEST(DemoResultTest, OneBadHopAmongGoodOnesIsNotForgotten) {
  DemoResult result;
  HopFacts bad = GoodHop();
  bad.guest.intact = false;
  bad.frames.different = 2;
  bad.guest_gap_us = 9000;
  result.Add(bad);
  result.Add(GoodHop());
  EXPECT_FALSE(result.good());
  EXPECT_FALSE(result.guest_intact());
  EXPECT_EQ(result.copied_bytes(), 8192u);
  EXPECT_EQ(result.longest_guest_gap_us(), 9000);
}

TEST(DemoResultTest, ALeftoverIsNotGood) {
  DemoResult result;
  result.Add(GoodHop());
  result.AddLeftovers({});
  EXPECT_TRUE(result.good());
  result.AddLeftovers({"process 17"});
  EXPECT_FALSE(result.good());
}

TEST(DemoResultTest, TheJsonObjectHasExactlyTheAgreedKeys) {
  DemoResult result;
  result.Add(GoodHop());
  const auto json = result.ToJson({.vcpus = 2, .memory_mib = 64, .hops = 5},
                                  {.backend = "kvm", .vm_type = "default"});
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"backend", "vm_type", "vcpus", "memory_mib", "hops",
                                            "blackout_us", "guest_gap_us", "guest_intact",
                                            "memory_copied_bytes", "fence", "leftovers"}));
  EXPECT_EQ(json["hops"], 1);  // made, not asked for
  EXPECT_EQ(json["blackout_us"]["p50"], 412);
  EXPECT_EQ(json["blackout_us"]["phases"]["stop_vcpus"], 60.5);
  EXPECT_EQ(json["guest_gap_us"], 455);
  EXPECT_EQ(json["fence"]["stopped_before_resume"], true);
  EXPECT_EQ(json["leftovers"], nlohmann::ordered_json::array());
}

TEST(DemoResultTest, WithoutAHopNoFenceIsClaimed) {
  const auto json = DemoResult().ToJson({}, {});
  EXPECT_EQ(json["fence"]["complete"], false);
  EXPECT_EQ(json["guest_intact"], false);
}

}  // namespace
}  // namespace rehome::bench
