// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_BLACKOUT_PHASES_H_
#define REHOME_BENCH_BLACKOUT_PHASES_H_

#include <string>
#include <utility>
#include <vector>

#include "rehome/v1/migration_report.pb.h"

namespace rehome::bench {

// {"stop_vcpus", 61.2}, ... in order, microseconds, every phase also if it took no time; empty if
// the record has no phases.
std::vector<std::pair<std::string, double>> PhasesOf(const v1::Blackout& blackout);

// "stop vCPUs": what people read instead of "stop_vcpus".
std::string PhaseTitle(const std::string& phase);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_BLACKOUT_PHASES_H_
