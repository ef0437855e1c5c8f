// SPDX-License-Identifier: Apache-2.0
//
//   conformance_test [--kernel=NAME] [--tables] [googletest's options]
//
// Asks every rule of the named kernel (kernels.cc), of the simulated one if none is named; or
// prints what is declared of all kernels.
#include <gtest/gtest.h>

#include <iostream>
#include <string_view>

#include "kvmglue/fd.h"
#include "tests/conformance/rule_test_case.h"

namespace {

using rehome::conformance::TestedKernel;

constexpr int kUsageError = 2;
constexpr std::string_view kKernelOption = "--kernel=";

bool HasKvm(const TestedKernel& kernel) {
  const rehome::SysResult opened = kernel.open()->OpenKvm();
  const rehome::UniqueFd closes_it(static_cast<int>(opened.value));
  return opened.ok();
}

class NoKvm final : public ::testing::Test {
  void TestBody() override { GTEST_SKIP() << "no /dev/kvm: no rule was asked"; }
};

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const TestedKernel* kernel = rehome::conformance::FindKernel("sim");
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--tables") {
      std::cout << rehome::conformance::DeclaredTables();
      return 0;
    }
    kernel = argument.starts_with(kKernelOption)
                 ? rehome::conformance::FindKernel(argument.substr(kKernelOption.size()))
                 : nullptr;
    if (kernel == nullptr) {
      std::cerr << "conformance_test: what is " << argument << "?\n";
      return kUsageError;
    }
  }
  // Only the machine one happens to be on may be without; a kernel that was booted for this has it.
  if (kernel->features_vary && !HasKvm(*kernel)) {
    ::testing::RegisterTest("Conformance", "NoKvm", nullptr, nullptr, __FILE__, __LINE__,
                            []() -> ::testing::Test* { return new NoKvm; });
  } else {
    rehome::conformance::RegisterRules(*kernel);
  }
  return RUN_ALL_TESTS();
}
