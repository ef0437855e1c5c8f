// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/rule_test_case.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <iomanip>
#include <iostream>
#include <map>
#include <set>
#include <utility>

namespace rehome::conformance {
namespace {

// Verdicts of this run, in the order in which the rules ran.
using Verdicts = std::vector<std::pair<std::string, std::string>>;

constexpr char kHolds[] = "holds";
constexpr char kDiffers[] = "differs";
constexpr char kFailed[] = "FAILED";

std::string FailuresIn(const ::testing::TestPartResultArray& results) {
  std::string text;
  for (int i = 0; i < results.size(); ++i) {
    if (results.GetTestPartResult(i).failed()) text += results.GetTestPartResult(i).message();
  }
  return text;
}

class RuleTestCase final : public ::testing::Test {
 public:
  RuleTestCase(const TestedKernel& tested, const Rule& rule, Verdicts& verdicts)
      : tested_(tested), rule_(rule), verdicts_(verdicts) {}

 private:
  void TestBody() override {
    const std::unique_ptr<KvmSyscalls> kernel = tested_.open();
    const std::string verdict = Ask(*kernel);
    verdicts_.emplace_back(rule_.id, HasFailure() ? kFailed : verdict);
    RecordProperty("verdict", verdicts_.back().second);
  }

  std::string Ask(KvmSyscalls& kernel) {
    Bench bench(kernel);
    for (const Feature feature : rule_.needs) {
      const std::string answer = AskFor(feature, bench);
      if (!tested_.features_vary) {
        EXPECT_EQ(answer.empty(), tested_.features.contains(feature)) << FeatureName(feature);
      }
      if (answer.empty()) continue;
      EXPECT_EQ(answer, AbsentAnswer(feature)) << FeatureName(feature);
      return AbsentVerdict(feature);
    }
    const Deviation* const deviation = FindDeviation(tested_, rule_.id);
    if (deviation != nullptr) return ExpectToDiffer(bench, *deviation);
    rule_.check(bench);
    return kHolds;
  }

  std::string ExpectToDiffer(Bench& bench, const Deviation& deviation) {
    ::testing::TestPartResultArray results;
    {
      const ::testing::ScopedFakeTestPartResultReporter reporter(
          ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ALL_THREADS, &results);
      rule_.check(bench);
    }
    const std::string failures = FailuresIn(results);
    EXPECT_NE(failures.find(deviation.failure), std::string::npos)
        << "the rule was expected to fail here with \"" << deviation.failure << "\", because "
        << deviation.reason << "; it said: " << (failures.empty() ? "it holds" : failures);
    return kDiffers;
  }

  const TestedKernel& tested_;
  const Rule rule_;
  Verdicts& verdicts_;
};

// Says at the end what was asked and what became of it.
class Account final : public ::testing::Environment {
 public:
  Account(const TestedKernel& tested, const Verdicts& verdicts)
      : tested_(tested), verdicts_(verdicts) {}

 private:
  void TearDown() override {
    constexpr int kIdWidth = 34;
    std::map<std::string, int> counts;
    std::cout << "\nrule" << std::string(kIdWidth - 4, ' ') << tested_.name << "\n";
    for (const auto& [id, verdict] : verdicts_) {
      std::cout << std::left << std::setw(kIdWidth) << id << verdict << "\n";
      ++counts[verdict.substr(0, verdict.find(':'))];
    }
    std::cout << "\nconformance of " << tested_.name << ": " << verdicts_.size() << " of "
              << AllRules().size() << " rules asked; " << counts[kHolds] << " hold, "
              << counts["absent"] << " absent there, " << counts[kDiffers] << " differ as known, "
              << counts[kFailed] << " failed" << std::endl;
  }

  const TestedKernel& tested_;
  const Verdicts& verdicts_;
};

}  // namespace

void RegisterRules(const TestedKernel& kernel) {
  static Verdicts verdicts;
  for (const Rule& rule : AllRules()) {
    ::testing::RegisterTest(
        "Conformance", rule.id, nullptr, nullptr, __FILE__, __LINE__,
        [&kernel, rule]() -> ::testing::Test* { return new RuleTestCase(kernel, rule, verdicts); });
  }
  ::testing::AddGlobalTestEnvironment(new Account(kernel, verdicts));
}

std::string DeclaredTables() {
  std::string kernels = "| Kernel | What it is |\n|---|---|\n";
  std::string rules = "| Rule | What holds | Source |";
  std::string line = "|---|---|---|";
  std::string differences = "| Kernel | Rule | Why it differs |\n|---|---|---|\n";
  for (const TestedKernel& kernel : TestedKernels()) {
    const std::string name(kernel.name);
    kernels += "| " + name + " | " + std::string(kernel.what) + " |\n";
    rules += " " + name + " |";
    line += "---|";
    for (const Deviation& deviation : kernel.deviations) {
      differences += "| " + name + " | " + std::string(deviation.rule) + " | " +
                     std::string(deviation.reason) + " |\n";
    }
  }
  rules += "\n" + line + "\n";
  for (const Rule& rule : AllRules()) {
    rules += std::string("| ") + rule.id + " | " + rule.statement + " | " + rule.source + " |";
    for (const TestedKernel& kernel : TestedKernels()) {
      rules += " " + ExpectedVerdict(kernel, rule) + " |";
    }
    rules += "\n";
  }
  return kernels + "\n" + rules + "\n" + differences;
}

}  // namespace rehome::conformance
