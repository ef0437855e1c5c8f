// SPDX-License-Identifier: Apache-2.0
//
// docs/conformance.md shows what the rules declare, and nothing else; and what they declare names
// rules that there are.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "tests/conformance/rule_test_case.h"

namespace rehome::conformance {
namespace {

constexpr char kPage[] = "docs/conformance.md";
constexpr std::string_view kBegin = "<!-- tables: begin -->\n";
constexpr std::string_view kEnd = "<!-- tables: end -->";

TEST(ConformanceDocTest, ThePageShowsWhatIsDeclared) {
  std::ifstream file(kPage);
  ASSERT_TRUE(file.is_open()) << kPage;
  std::stringstream text;
  text << file.rdbuf();
  const std::string page = text.str();
  const size_t begin = page.find(kBegin);
  const size_t end = page.find(kEnd);
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  const size_t first = begin + kBegin.size();
  EXPECT_EQ(page.substr(first, end - first), DeclaredTables())
      << "put what `conformance_test --tables` prints between the markers of " << kPage;
}

TEST(ConformanceDocTest, EveryRuleHasItsOwnName) {
  std::set<std::string> names;
  for (const Rule& rule : AllRules()) EXPECT_TRUE(names.insert(rule.id).second) << rule.id;
}

TEST(ConformanceDocTest, DifferencesAreOfRulesThatTheKernelHasTheMeansFor) {
  const std::vector<Rule> rules = AllRules();
  for (const TestedKernel& kernel : TestedKernels()) {
    std::set<std::string_view> differing;
    for (const Rule& rule : rules) {
      if (ExpectedVerdict(kernel, rule) == "differs") differing.insert(rule.id);
    }
    for (const Deviation& deviation : kernel.deviations) {
      EXPECT_TRUE(differing.contains(deviation.rule)) << kernel.name << ": " << deviation.rule;
    }
  }
}

}  // namespace
}  // namespace rehome::conformance
