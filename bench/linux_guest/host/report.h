// SPDX-License-Identifier: Apache-2.0
//
// The account of a session, for people and for programs. Pure.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_REPORT_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_REPORT_H_

#include <string>
#include <vector>

#include "bench/linux_guest/host/evidence.h"
#include "bench/linux_guest/host/judge.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"

namespace rehome::linux_guest {

// A line and its detail for each promise; at most kTerminalColumns wide.
std::vector<std::string> VerdictLines(const bench::Style& style,
                                      const std::vector<Verdict>& verdicts);

// Verdicts by name, and the figures they rest on.
nlohmann::ordered_json ToJson(const Evidence& evidence, const std::vector<Verdict>& verdicts);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_REPORT_H_
