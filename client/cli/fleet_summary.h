// SPDX-License-Identifier: Apache-2.0
//
// What came of moving many guests, counted and put into words.
#ifndef REHOME_CLIENT_CLI_FLEET_SUMMARY_H_
#define REHOME_CLIENT_CLI_FLEET_SUMMARY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "client/cli/console.h"
#include "client/cli/exit_code.h"
#include "client/fleet.h"

namespace rehome {

struct FleetSummary {
  size_t moved = 0;
  size_t movable = 0;  // of a dry run
  size_t already_there = 0;
  size_t failed = 0;
  size_t under_way = 0;
  size_t not_started = 0;
  // Of those moved whose blackout is known; unset without any. The median is one of them.
  std::optional<int64_t> blackout_p50_ns, blackout_max_ns;
  std::chrono::nanoseconds elapsed{0};
  ExitCode exit_code = ExitCode::kOk;  // the worst, as docs/fleet.md orders them
};

FleetSummary Summarize(const std::vector<FleetResult>& results, bool dry_run,
                       std::chrono::nanoseconds elapsed);

// One VM of which there is a result, without a line's end: "ok web-1  m-1  paused for 312.4 us".
std::string FleetResultText(const FleetResult& result, const Console& console);

// Counts, figures, and one line for each VM that needs somebody: failed or still under way.
void PrintFleetSummary(const FleetSummary& summary, const std::vector<FleetResult>& results,
                       bool dry_run, const Console& console, std::ostream& out);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_FLEET_SUMMARY_H_
