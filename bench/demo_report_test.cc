// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_report.h"

#include "bench/sample_hop.h"
#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

const Style kPlain({.colour = false, .utf8 = false});
const Style kRich({.colour = true, .utf8 = true});

std::string Joined(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

DemoResult ResultOf(const HopFacts& facts) {
  DemoResult result;
  result.Add(facts);
  return result;
}

TEST(DemoReportTest, NoLineIsWiderThanTheTerminal) {
  for (const Style& style : {kPlain, kRich}) {
    HopFacts facts = GoodHop();
    facts.guest.difference =
        "vCPU 3: word of work page 712 at gpa 0x1f3c410 is {0x123456789abcdef0, 91234}, expected "
        "{0x0fedcba987654321, 91233}";
    Lines lines = HopLines(style, 5, facts);
    const Lines summary = SummaryLines(style, ResultOf(facts));
    const Lines header =
        HeaderLines(style, {}, {.backend = "sim", .backend_reason = std::string(200, 'x') + " y"},
                    facts.before);
    lines.insert(lines.end(), summary.begin(), summary.end());
    for (const std::string& line : lines) EXPECT_LE(DisplayWidth(line), kTerminalColumns) << line;
    EXPECT_FALSE(header.empty());
    EXPECT_LT(DisplayWidth(ProgressLine(1000, facts)), kTerminalColumns);
  }
}

TEST(DemoReportTest, EachClaimHasItsMark) {
  HopFacts facts = GoodHop();
  EXPECT_EQ(Joined(HopLines(kPlain, 5, facts)).find("  ! "), std::string::npos);
  facts.guest.intact = false;
  const std::string text = Joined(HopLines(kPlain, 5, facts));
  EXPECT_NE(text.find("  ! guest      NOT INTACT"), std::string::npos) << text;
  EXPECT_NE(text.find("  + memory"), std::string::npos) << text;
}

TEST(DemoReportTest, PhasesThatTookNoTimeAreLeftOut) {
  const std::string text = Joined(HopLines(kPlain, 5, GoodHop()));
  EXPECT_NE(text.find("fence old VMM"), std::string::npos);
  EXPECT_EQ(text.find("move context"), std::string::npos);
}

TEST(DemoReportTest, TheSummaryNamesEveryLeftover) {
  DemoResult result = ResultOf(GoodHop());
  EXPECT_NE(Joined(SummaryLines(kPlain, result)).find("+ left over"), std::string::npos);
  result.AddLeftovers({"process 17 (rehome-vmm-1)", "2 descriptors of the daemon"});
  const std::string text = Joined(SummaryLines(kPlain, result));
  EXPECT_EQ(text.find("+ left over"), std::string::npos);
  EXPECT_NE(text.find("! left over  process 17 (rehome-vmm-1)"), std::string::npos) << text;
  EXPECT_NE(text.find("! left over  2 descriptors of the daemon"), std::string::npos) << text;
}

}  // namespace
}  // namespace rehome::bench
