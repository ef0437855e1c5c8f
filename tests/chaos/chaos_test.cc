// SPDX-License-Identifier: Apache-2.0
//
// The kill matrix of one backend (REHOME_CHAOS_BACKEND) and one blow (REHOME_CHAOS_BLOW), one
// round of the cells that IsTested() names.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvmglue/why_no_kvm.h"
#include "tests/chaos/matrix.h"
#include "tests/harness/run_guard.h"

namespace rehome::chaos {
namespace {

struct Part {
  std::string title;
  std::vector<Cell> cells;
};

// A sanitizer's library would have to come before the one that holds a daemon in its recovery.
bool CanRun(const Cell& cell) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return cell.within != Within::kRecovery;
#else
  (void)cell;
  return true;
#endif
}

std::string Title(const Cell& cell) {
  std::string title = cell.variant.name + (cell.blow == Blow::kKill ? "_kill" : "_stop");
  if (cell.within == Within::kRescue) title += "_in_a_rescue";
  if (cell.within == Within::kRecovery) title += "_in_a_recovery";
  for (char& c : title) c = c == '-' ? '_' : c;
  return title;
}

std::vector<Part> Parts() {
  std::vector<Part> parts;
  for (const Variant& variant : Variants(REHOME_CHAOS_BACKEND)) {
    for (const Cell& cell : AllCells(variant, Blow::REHOME_CHAOS_BLOW)) {
      if (!IsTested(cell) || !CanRun(cell)) continue;
      if (parts.empty() || parts.back().title != Title(cell)) parts.push_back({Title(cell), {}});
      parts.back().cells.push_back(cell);
    }
  }
  return parts;
}

void PrintTo(const Part& part, std::ostream* out) { *out << part.title; }

// Before there is a second thread.
class GuardedRun : public testing::Environment {
 public:
  void SetUp() override {
    auto guard = harness::RunGuard::Start();
    ASSERT_TRUE(guard.ok()) << guard.status();
    guard_ = *std::move(guard);
  }
  void TearDown() override { guard_.reset(); }

 private:
  std::unique_ptr<harness::RunGuard> guard_;
};
const testing::Environment* const kGuardedRun =
    testing::AddGlobalTestEnvironment(new GuardedRun);  // googletest's from now on

class KillMatrixTest : public testing::TestWithParam<Part> {};

TEST_P(KillMatrixTest, LeavesOneOwnerOrAnHonestLossAndNothingElse) {
  const std::vector<Cell>& cells = GetParam().cells;
  if (cells.front().variant.backend == "kvm") {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }
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
                         [](const auto& info) { return info.param.title; });

}  // namespace
}  // namespace rehome::chaos
