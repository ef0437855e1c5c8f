// SPDX-License-Identifier: Apache-2.0
#include "bench/blackout_phases.h"

namespace rehome::bench {
namespace {

struct Phase {
  const char* name;
  const char* title;
  int64_t (v1::Blackout::Phases::*ns)() const;
};

constexpr Phase kPhases[] = {
    {"stop_vcpus", "stop vCPUs", &v1::Blackout::Phases::stop_vcpus_ns},
    {"save_state", "save state", &v1::Blackout::Phases::save_state_ns},
    {"claim", "wake and claim", &v1::Blackout::Phases::claim_ns},
    {"move", "move context", &v1::Blackout::Phases::move_ns},
    {"restore_state", "restore state", &v1::Blackout::Phases::restore_state_ns},
    {"fence", "fence old VMM", &v1::Blackout::Phases::fence_ns},
    {"resume", "enter guest", &v1::Blackout::Phases::resume_ns},
};

}  // namespace

std::vector<std::pair<std::string, double>> PhasesOf(const v1::Blackout& blackout) {
  std::vector<std::pair<std::string, double>> phases;
  if (!blackout.has_phases()) return phases;
  for (const Phase& phase : kPhases) {
    phases.emplace_back(phase.name, static_cast<double>((blackout.phases().*phase.ns)()) / 1000);
  }
  return phases;
}

std::string PhaseTitle(const std::string& name) {
  for (const Phase& phase : kPhases) {
    if (name == phase.name) return phase.title;
  }
  return name;
}

}  // namespace rehome::bench
