// SPDX-License-Identifier: Apache-2.0
//
// The words of the demo, as lines of at most kTerminalColumns columns. Pure.
#ifndef REHOME_BENCH_DEMO_REPORT_H_
#define REHOME_BENCH_DEMO_REPORT_H_

#include <string>
#include <vector>

#include "bench/demo_options.h"
#include "bench/demo_result.h"
#include "bench/hop_account.h"
#include "bench/terminal.h"

namespace rehome::bench {

using Lines = std::vector<std::string>;

// Where and with what, before anything moves.
Lines HeaderLines(const Style& style, const DemoOptions& options, const DemoPlan& plan,
                  const VmmFacts& vmm);
// One hop in full.
Lines HopLines(const Style& style, int hops, const HopFacts& facts);
// One hop in a line, for a long run; no line end.
std::string ProgressLine(int hops, const HopFacts& facts);
// All of them.
Lines SummaryLines(const Style& style, const DemoResult& result);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_DEMO_REPORT_H_
