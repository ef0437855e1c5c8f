// SPDX-License-Identifier: Apache-2.0
#include "client/request_id.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>

namespace rehome {
namespace {

TEST(RequestIdTest, IsAUuidOfVersion4) {
  const std::regex uuid4("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(std::regex_match(NewRequestId(), uuid4));
}

TEST(RequestIdTest, IsFreshEachTime) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(NewRequestId());
  EXPECT_EQ(ids.size(), 1000u);
}

}  // namespace
}  // namespace rehome
