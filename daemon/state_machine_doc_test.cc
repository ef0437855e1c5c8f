// SPDX-License-Identifier: Apache-2.0
//
// docs/state-machine.md shows the table that the daemon runs, and no other.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/machine.h"

namespace rehome {
namespace {

constexpr char kPage[] = "docs/state-machine.md";
constexpr char kBegin[] = "<!-- table: begin -->\n";
constexpr char kEnd[] = "<!-- table: end -->";

std::string Row(Step step, Event event, const Transition& transition) {
  const char* owner =
      transition.next_owner.has_value() ? GuestOwnerName(*transition.next_owner) : "unchanged";
  return absl::StrCat("| ", StepName(step), " | ", EventName(event), " | ",
                      StepName(transition.next_step), " | ",
                      MigrationStateName(transition.next_state), " | ", owner, " | ",
                      EffectName(transition.effect), " |\n");
}

std::string TableOfTheCode() {
  std::string table =
      "| Step | Event | Next step | State | Owner | Effect |\n"
      "|---|---|---|---|---|---|\n";
  for (size_t s = 1; s <= kStepCount; ++s) {
    for (size_t e = 1; e <= kEventCount; ++e) {
      const auto transition = Next(static_cast<Step>(s), static_cast<Event>(e), false);
      if (!transition.ok()) continue;
      table += Row(static_cast<Step>(s), static_cast<Event>(e), *transition);
    }
  }
  return table;
}

TEST(StateMachineDocTest, ThePageShowsTheTableOfTheCode) {
  std::ifstream file(kPage);
  ASSERT_TRUE(file.is_open()) << kPage;
  std::stringstream text;
  text << file.rdbuf();
  const std::string page = text.str();
  const size_t begin = page.find(kBegin);
  const size_t end = page.find(kEnd);
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  const size_t first = begin + sizeof(kBegin) - 1;
  EXPECT_EQ(page.substr(first, end - first), TableOfTheCode())
      << "put this between the markers of " << kPage << ":\n"
      << TableOfTheCode();
}

}  // namespace
}  // namespace rehome
