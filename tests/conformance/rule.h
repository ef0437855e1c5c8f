// SPDX-License-Identifier: Apache-2.0
//
// A rule: one thing that the kernel does, that the rest of the project builds on, and that can be
// asked of a kernel with calls alone.
#ifndef REHOME_TESTS_CONFORMANCE_RULE_H_
#define REHOME_TESTS_CONFORMANCE_RULE_H_

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "tests/conformance/bench.h"

namespace rehome::conformance {

// What a kernel has or has not. A rule about what is not there is "absent" there, and the answer by
// which that shows is asked for as well: a kernel cannot lack a thing silently.
enum class Feature {
  kLink,            // KVM_LINK_GUEST_MEMFD
  kMove,            // MOVE of SW_PROTECTED
  kPrivateMemory,   // KVM_X86_SW_PROTECTED_VM
  kMappableMemory,  // GUEST_MEMFD_FLAG_MMAP, and guest_memfd in VMs of type default (6.18)
  kPreFault,        // KVM_PRE_FAULT_MEMORY
};
inline constexpr Feature kFeatures[] = {Feature::kLink, Feature::kMove, Feature::kPrivateMemory,
                                        Feature::kMappableMemory, Feature::kPreFault};

// "LINK"
const char* FeatureName(Feature feature);
// How a kernel without it answers: "ENOTTY".
const char* AbsentAnswer(Feature feature);
// "" if it is there, else how the kernel answers.
std::string AskFor(Feature feature, Bench& bench);

inline constexpr std::initializer_list<Feature> kLinkAndMove = {Feature::kLink, Feature::kMove};

struct Rule {
  const char* id;
  const char* source;     // of the fact
  const char* statement;  // as a sentence
  std::initializer_list<Feature> needs;
  void (*check)(Bench& bench);  // with EXPECT_* and ASSERT_*
};

// By subject; AllRules() has them in the order of the table.
std::span<const Rule> CapabilityRules();
std::span<const Rule> MemoryFileRules();
std::span<const Rule> BindingRules();
std::span<const Rule> AttributeRules();
std::span<const Rule> OwnershipRules();
std::span<const Rule> LinkRules();
std::span<const Rule> DormantRules();
std::span<const Rule> MoveRules();
std::span<const Rule> MismatchRules();
std::span<const Rule> DeadRules();
std::span<const Rule> LifetimeRules();
std::span<const Rule> ConcurrencyRules();
std::vector<Rule> AllRules();

}  // namespace rehome::conformance

#endif  // REHOME_TESTS_CONFORMANCE_RULE_H_
