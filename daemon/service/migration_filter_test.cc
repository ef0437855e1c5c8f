// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/migration_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using ::testing::HasSubstr;

TEST(MigrationFilterTest, EmptyFilterSelectsAll) {
  for (const char* text : {"", "  "}) {
    const auto filter = ParseMigrationFilter(text);
    ASSERT_TRUE(filter.ok());
    EXPECT_EQ(filter->vm_id, "");
    EXPECT_FALSE(filter->state.has_value());
  }
}

TEST(MigrationFilterTest, FieldsAreJoinedByAnd) {
  for (const char* text : {"vm = web-1 AND state = SUCCEEDED", "state=SUCCEEDED AND vm=\"web-1\"",
                           "  vm=\"virtualMachines/web-1\"   AND state = \"SUCCEEDED\" "}) {
    const auto filter = ParseMigrationFilter(text);
    ASSERT_TRUE(filter.ok()) << filter.status();
    EXPECT_EQ(filter->vm_id, "web-1");
    EXPECT_EQ(filter->state, MigrationState::kSucceeded);
  }
}

TEST(MigrationFilterTest, EveryStateCanBeAskedFor) {
  for (size_t number = 1; number <= kMigrationStateCount; ++number) {
    const auto state = static_cast<MigrationState>(number);
    const auto filter = ParseMigrationFilter(std::string("state = ") + MigrationStateName(state));
    ASSERT_TRUE(filter.ok());
    EXPECT_EQ(filter->state, state);
  }
}

TEST(MigrationFilterTest, WhatIsWrongIsNamedWithItsPlace) {
  const std::pair<const char*, const char*> wrong[] = {
      {"colour = blue", "at character 1: unknown field 'colour'"},
      {"vm = a AND color = b", "at character 12: unknown field 'color'"},
      {"state = DONE", "at character 9: unknown state 'DONE'"},
      {"state = succeeded", "unknown state 'succeeded'"},
      {"vm", "'=' is missing after field 'vm'"},
      {"vm =", "a value is missing for field 'vm'"},
      {"= a", "a field is missing here"},
      {"vm = a vm = b", "AND is missing here"},
      {"vm = a AND", "a field is missing here"},
      {"vm = a AND vm = b", "field vm stands there twice"},
      {"state = FAILED AND state = PENDING", "field state stands there twice"},
      {"vm = a OR vm = b", "OR is not supported"},
      {"NOT vm = a", "NOT is not supported"},
      {"vm != a", "this character is not supported"},
      {"vm = \"a", "the quote is not closed"},
      {"vm = \"\"", "not the name or id of a VM"},
      {"vm = \xc3\xa4", "this character is not supported"},
  };
  for (const auto& [text, what] : wrong) {
    const auto filter = ParseMigrationFilter(text);
    EXPECT_EQ(ReasonOf(filter.status()), "BAD_FILTER") << text;
    EXPECT_THAT(std::string(filter.status().message()), HasSubstr(what)) << text;
  }
  EXPECT_EQ(ReasonOf(ParseMigrationFilter(std::string(kMaxFilterLength + 1, ' ')).status()),
            "BAD_FILTER");
}

}  // namespace
}  // namespace rehome
