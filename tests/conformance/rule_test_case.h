// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_TESTS_CONFORMANCE_RULE_TEST_CASE_H_
#define REHOME_TESTS_CONFORMANCE_RULE_TEST_CASE_H_

#include "tests/conformance/kernels.h"

namespace rehome::conformance {

// Makes every rule a googletest test of the suite "Conformance", named by its id, that asks
// `kernel`; and has the verdicts printed as a table when all have run. A rule whose means the
// kernel lacks passes if the kernel says so in the expected way; a deviation passes if it deviates
// as stated.
void RegisterRules(const TestedKernel& kernel);

// What is declared, as Markdown: the kernels, the table of rule x kernel, and why rules differ.
std::string DeclaredTables();

}  // namespace rehome::conformance

#endif  // REHOME_TESTS_CONFORMANCE_RULE_TEST_CASE_H_
