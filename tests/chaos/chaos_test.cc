// SPDX-License-Identifier: Apache-2.0
//
// The kill matrix of one backend (REHOME_CHAOS_BACKEND) and one blow (REHOME_CHAOS_BLOW), one
// round.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "kvmglue/why_no_kvm.h"
#include "tests/chaos/matrix.h"

namespace rehome::chaos {
namespace {

struct Part {
  Variant variant;
  Blow blow;
};

std::vector<Part> Parts() {
  std::vector<Part> parts;
  for (const Variant& variant : Variants(REHOME_CHAOS_BACKEND)) {
    parts.push_back({variant, Blow::REHOME_CHAOS_BLOW});
  }
  return parts;
}

std::string Title(const Part& part) {
  std::string title = part.variant.name + (part.blow == Blow::kKill ? "_kill" : "_stop");
  for (char& c : title) c = c == '-' ? '_' : c;
  return title;
}

void PrintTo(const Part& part, std::ostream* out) { *out << Title(part); }

class KillMatrixTest : public testing::TestWithParam<Part> {};

TEST_P(KillMatrixTest, LeavesOneOwnerOrAnHonestLossAndNothingElse) {
  if (GetParam().variant.backend == "kvm") {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }
  const std::vector<Cell> cells = Cells(GetParam().variant, GetParam().blow);
  const std::vector<RanCell> ran = RunCells(cells, kHostsAtOnce, [](const RanCell&) {});
  for (const RanCell& cell : ran) {
    EXPECT_TRUE(cell.result.outcome != Outcome::kBroken && cell.result.leftovers.empty())
        << cell.cell.Name() << ": " << Describe(cell.result) << "\n"
        << cell.result.logs;
  }
  const Summary summary = Summarize(ran);
  std::printf("%d cells: %d held, %d lost honestly, %d broken, %d leftovers, %d repeated\n",
              summary.cells, summary.held, summary.lost_honestly, summary.broken, summary.leftovers,
              summary.repeated);
  EXPECT_EQ(static_cast<size_t>(summary.held + summary.lost_honestly), cells.size());
  EXPECT_GT(summary.held, 0);
}

INSTANTIATE_TEST_SUITE_P(, KillMatrixTest, testing::ValuesIn(Parts()),
                         [](const auto& info) { return Title(info.param); });

}  // namespace
}  // namespace rehome::chaos
