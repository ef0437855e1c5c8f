// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/rule.h"

#include <cstring>

namespace rehome::conformance {
namespace {

std::string ErrnoOf(long result) {
  return result >= 0 ? "" : strerrorname_np(static_cast<int>(-result));
}

// Two VMs without slots and vCPUs: nothing differs, so only a kernel that cannot refuses.
long TryEmptyMove(Bench& bench) {
  const UniqueFd source = bench.CreateVm(bench.memory_type());
  const UniqueFd target = bench.CreateVm(bench.memory_type());
  return bench.Move(target.borrow(), source.borrow());
}

long TryLinkWithBadFlags(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  const long result = bench.TryLink(vm.borrow(), {.fd = 0, .flags = ~0ull, .reserved = {}});
  // Without side effects: a kernel that has the call says that it does not know the flags.
  return result == -EINVAL ? 0 : result;
}

long TryMappable(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(VmType::kDefault);
  const long result = bench.TryCreateMemory(vm.borrow(), kPage, GUEST_MEMFD_FLAG_MMAP);
  const UniqueFd closes_it(static_cast<int>(result));
  return result;
}

long TryCreateProtected(Bench& bench) {
  const long result = bench.TryCreateVm(static_cast<uint64_t>(VmType::kSwProtected));
  const UniqueFd closes_it(static_cast<int>(result));
  return result;
}

}  // namespace

const char* FeatureName(Feature feature) {
  switch (feature) {
    case Feature::kLink:
      return "LINK";
    case Feature::kMove:
      return "MOVE of SW_PROTECTED";
    case Feature::kPrivateMemory:
      return "SW_PROTECTED";
    case Feature::kMappableMemory:
      return "mappable guest_memfd";
    case Feature::kPreFault:
      return "PRE_FAULT";
  }
  return "?";
}

const char* AbsentAnswer(Feature feature) {
  switch (feature) {
    case Feature::kLink:
      return "ENOTTY";
    case Feature::kMove:
    case Feature::kPrivateMemory:
    case Feature::kMappableMemory:
      return "EINVAL";
    case Feature::kPreFault:
      return "capability 236 is 0";
  }
  return "?";
}

std::string AskFor(Feature feature, Bench& bench) {
  switch (feature) {
    case Feature::kLink:
      return ErrnoOf(TryLinkWithBadFlags(bench));
    case Feature::kMove:
      return ErrnoOf(TryEmptyMove(bench));
    case Feature::kPrivateMemory:
      return ErrnoOf(TryCreateProtected(bench));
    case Feature::kMappableMemory:
      return ErrnoOf(TryMappable(bench));
    case Feature::kPreFault:
      return bench.Call(bench.kvm(), KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY) == 0
                 ? "capability 236 is 0"
                 : "";
  }
  return "?";
}

std::vector<Rule> AllRules() {
  std::vector<Rule> all;
  for (const std::span<const Rule> rules :
       {CapabilityRules(), MemoryFileRules(), BindingRules(), AttributeRules(), OwnershipRules(),
        LinkRules(), DormantRules(), MoveRules(), MismatchRules(), DeadRules(), LifetimeRules(),
        ConcurrencyRules()}) {
    all.insert(all.end(), rules.begin(), rules.end());
  }
  return all;
}

}  // namespace rehome::conformance
