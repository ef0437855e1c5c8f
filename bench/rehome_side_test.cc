// SPDX-License-Identifier: Apache-2.0
#include "bench/rehome_side.h"

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

v1::Migration Succeeded() {
  v1::Migration migration;
  migration.set_name("migrations/1");
  migration.set_state(v1::Migration::SUCCEEDED);
  migration.mutable_blackout()->set_total_ns(412'000);
  migration.mutable_blackout()->mutable_phases()->set_stop_vcpus_ns(100'000);
  migration.mutable_blackout()->mutable_phases()->set_resume_ns(312'000);
  return migration;
}

TEST(SampleOfTest, TakesBlackoutAndPhasesInMicroseconds) {
  const auto sample = SampleOf(Succeeded());
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_EQ(sample->blackout_us, 412);
  ASSERT_EQ(sample->phases_us.size(), 7u);
  EXPECT_EQ(sample->phases_us.front(), (std::pair<std::string, double>("stop_vcpus", 100)));
  EXPECT_EQ(sample->phases_us.back(), (std::pair<std::string, double>("resume", 312)));
}

TEST(SampleOfTest, AMigrationThatDidNotSucceedIsNoSample) {
  v1::Migration migration = Succeeded();
  migration.set_state(v1::Migration::FAILED);
  migration.mutable_error()->set_message("the target lied");
  const auto sample = SampleOf(migration);
  ASSERT_FALSE(sample.ok());
  EXPECT_NE(sample.status().message().find("the target lied"), absl::string_view::npos);
}

TEST(SampleOfTest, ABlackoutThatIsNotKnownIsNotZero) {
  v1::Migration migration = Succeeded();
  migration.clear_blackout();
  EXPECT_FALSE(SampleOf(migration).ok());
}

}  // namespace
}  // namespace rehome::bench
