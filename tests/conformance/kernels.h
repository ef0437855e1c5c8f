// SPDX-License-Identifier: Apache-2.0
//
// The kernels that the rules are asked of, and what each is expected to say.
#ifndef REHOME_TESTS_CONFORMANCE_KERNELS_H_
#define REHOME_TESTS_CONFORMANCE_KERNELS_H_

#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvmglue/kvm_syscalls.h"
#include "tests/conformance/rule.h"

namespace rehome::conformance {

// The rule is about a race, and it may also hold.
inline constexpr std::string_view kTimingDecides = "";

// A rule that a kernel has the means for and yet does not follow. It is checked there all the same:
// the day it holds, or fails in another way, this is out of date and the test says so.
struct Deviation {
  std::string_view rule;
  std::string_view failure;  // a part of what the failed check says, or kTimingDecides
  std::string_view reason;
};

struct TestedKernel {
  std::string_view name;  // --kernel=
  std::string_view what;
  std::set<Feature> features;
  // The features are what is typical; what counts is what this machine has.
  bool features_vary;
  std::vector<Deviation> deviations;
  std::unique_ptr<KvmSyscalls> (*open)();
};

std::span<const TestedKernel> TestedKernels();
// nullptr: no such name.
const TestedKernel* FindKernel(std::string_view name);

// "absent: LINK, ENOTTY"
std::string AbsentVerdict(Feature feature);
// What the rule is expected to be there: "holds", AbsentVerdict() of what is lacking, "differs".
std::string ExpectedVerdict(const TestedKernel& kernel, const Rule& rule);
// nullptr: the rule is expected to hold.
const Deviation* FindDeviation(const TestedKernel& kernel, std::string_view rule);

}  // namespace rehome::conformance

#endif  // REHOME_TESTS_CONFORMANCE_KERNELS_H_
