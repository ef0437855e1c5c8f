// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/report.h"

#include "absl/strings/str_cat.h"

namespace rehome::linux_guest {

using nlohmann::ordered_json;

namespace {

constexpr size_t kIndent = 4;

ordered_json TimesOf(const Evidence& evidence) {
  ordered_json times = ordered_json::array();
  for (const TimeSample& sample : evidence.times) {
    times.push_back({{"host_mono_ns", sample.host_mono},
                     {"offset_ns", sample.offset},
                     {"error_ns", sample.error}});
  }
  return times;
}

}  // namespace

std::vector<std::string> VerdictLines(const bench::Style& style,
                                      const std::vector<Verdict>& verdicts) {
  std::vector<std::string> lines;
  const std::string indent(kIndent, ' ');
  for (const Verdict& verdict : verdicts) {
    const std::string mark = verdict.kept ? style.Passed() : style.Failed();
    lines.push_back(absl::StrCat("  ", mark, " ", verdict.promise));
    for (const std::string& part : bench::Wrap(verdict.detail, bench::kTerminalColumns - kIndent)) {
      lines.push_back(indent + (verdict.kept ? style.Dim(part) : style.Bad(part)));
    }
  }
  return lines;
}

ordered_json ToJson(const Evidence& evidence, const std::vector<Verdict>& verdicts) {
  ordered_json promises = ordered_json::object();
  for (const Verdict& verdict : verdicts) {
    promises[verdict.name] = {{"kept", verdict.kept}, {"detail", verdict.detail}};
  }
  return {{"kept", AllKept(verdicts)},
          {"hops", evidence.hops_done},
          {"promises", promises},
          {"stream_bytes", evidence.echo.bytes_compared},
          {"disk_records", evidence.last.Number("disk_durable").value_or(0)},
          {"console_lines", evidence.console.ticks},
          {"wall_clock_samples_before_hops", evidence.times_before_hops},
          {"wall_clock", TimesOf(evidence)},
          {"guest_before", evidence.first.ToLine()},
          {"guest_after", evidence.last.ToLine()}};
}

}  // namespace rehome::linux_guest
