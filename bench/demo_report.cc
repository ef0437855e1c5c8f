// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/blackout_phases.h"

namespace rehome::bench {
namespace {

constexpr size_t kTopicColumns = 10;
constexpr size_t kPhaseColumns = 15;
constexpr size_t kTimeColumns = 8;
constexpr size_t kBarCells = 32;
constexpr size_t kIndent = 4 + kTopicColumns + 1;

// "  ✓ topic      text, and more
//                 of it"
void AppendEntry(const std::string& mark, std::string_view topic, std::string_view text,
                 Lines& lines) {
  std::string lead = absl::StrCat("  ", mark, " ", PadRight(topic, kTopicColumns), " ");
  for (const std::string& line : Wrap(text, kTerminalColumns - kIndent)) {
    lines.push_back(lead + line);
    lead = std::string(kIndent, ' ');
  }
}

void AppendPhases(const Style& style, const std::vector<std::pair<std::string, double>>& phases,
                  Lines& lines) {
  double longest = 0;
  for (const auto& [name, micros] : phases) longest = std::max(longest, micros);
  for (const auto& [name, micros] : phases) {
    if (micros == 0) continue;
    lines.push_back(absl::StrCat(std::string(kIndent, ' '),
                                 PadRight(PhaseTitle(name), kPhaseColumns),
                                 PadLeft(FormatMicros(micros), kTimeColumns), "  ",
                                 style.Dim(style.Bar(micros, longest, kBarCells))));
  }
}

std::string Plural(uint64_t count, std::string_view what) {
  return absl::StrCat(count, " ", std::string(what), count == 1 ? "" : "s");
}

}  // namespace

Lines HeaderLines(const Style& style, const DemoOptions& options, const DemoPlan& plan,
                  const VmmFacts& vmm) {
  Lines lines = {style.Bold("Rehome: a running guest changes its VMM process"), ""};
  AppendEntry(" ", "kernel",
              plan.backend == "kvm" ? "kvm, the real one: " + plan.backend_reason
                                    : "sim, a simulated one: " + plan.backend_reason,
              lines);
  AppendEntry(" ", "guest",
              absl::StrCat(Plural(options.vcpus, "vCPU"), ", ", options.memory_mib, " MiB of ",
                           plan.memory_name, ", VM type ", plan.vm_type),
              lines);
  AppendEntry(" ", "runs in",
              absl::StrFormat("pid %d, %s, state format %d", vmm.vm.process().pid(),
                              vmm.vm.process().vmm(), vmm.vm.state_format()),
              lines);
  return lines;
}

Lines HopLines(const Style& style, int hops, const HopFacts& facts) {
  Lines lines = {"", style.Bold(absl::StrFormat("hop %d of %d", facts.number, hops))};
  for (const Claim& claim : ClaimsOf(facts)) {
    AppendEntry(claim.holds ? style.Passed() : style.Failed(), claim.topic, claim.text, lines);
    if (claim.topic == "paused") AppendPhases(style, PhasesOf(facts.migration.blackout()), lines);
  }
  return lines;
}

std::string ProgressLine(int hops, const HopFacts& facts) {
  return absl::StrFormat(
      "hop %d of %d: pid %d, blackout %s, %s steps intact", facts.number, hops,
      facts.after.vm.process().pid(),
      FormatMicros(static_cast<double>(facts.migration.blackout().total_ns()) / 1000),
      FormatCount(facts.guest.steps));
}

Lines SummaryLines(const Style& style, const DemoResult& result) {
  const auto mark = [&style](bool holds) { return holds ? style.Passed() : style.Failed(); };
  const Summary blackout = BlackoutOf(result.hops());
  Lines lines = {"", style.Bold(Plural(result.hops().size(), "hop"))};
  AppendEntry(mark(blackout.count > 0), "paused",
              absl::StrCat("p50 ", FormatMicros(blackout.p50), ", p99 ", FormatMicros(blackout.p99),
                           ", longest ", FormatMicros(blackout.max)),
              lines);
  AppendPhases(style, PhaseMedians(result.hops()), lines);
  AppendEntry(mark(result.longest_guest_gap_us() > 0), "guest saw",
              absl::StrCat("at the longest ", FormatMicros(result.longest_guest_gap_us()),
                           " between two of its steps"),
              lines);
  AppendEntry(mark(result.guest_intact()), "guest",
              result.guest_intact() ? "intact after each hop" : "NOT intact after each hop", lines);
  AppendEntry(mark(result.copied_bytes() == 0), "memory",
              absl::StrCat(FormatBytes(static_cast<double>(result.copied_bytes())), " copied"),
              lines);
  if (result.leftovers().empty()) {
    AppendEntry(mark(true), "left over",
                "no process, no descriptor, no file, nobody who holds the memory", lines);
  }
  for (const std::string& leftover : result.leftovers()) {
    AppendEntry(mark(false), "left over", leftover, lines);
  }
  return lines;
}

}  // namespace rehome::bench
