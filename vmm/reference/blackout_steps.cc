// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/blackout_steps.h"

namespace rehome {
namespace {

struct StepName {
  BlackoutStep step;
  const char* name;
};
constexpr StepName kNames[] = {
    {BlackoutStep::kLearn, "learn"},       {BlackoutStep::kSyncRegs, "sync-regs"},
    {BlackoutStep::kAnnounce, "announce"}, {BlackoutStep::kParallel, "parallel"},
    {BlackoutStep::kSpin, "spin"},
};

}  // namespace

std::optional<BlackoutStep> BlackoutStepFromName(std::string_view name) {
  for (const StepName& entry : kNames) {
    if (name == entry.name) return entry.step;
  }
  return std::nullopt;
}

std::vector<std::string> BlackoutStepNames() {
  std::vector<std::string> names;
  for (const StepName& entry : kNames) names.push_back(entry.name);
  return names;
}

}  // namespace rehome
