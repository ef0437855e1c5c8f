// SPDX-License-Identifier: Apache-2.0
//
// Blackout of the real thing against the floor, side by side in one run: the two take turns, a few
// hops each with a fresh guest, so that what else the machine does hits both alike.
//
// The ratio is taken with AFTER_RESUME, since the floor proves nothing about its old process
// either; what BEFORE_RESUME adds is a figure of its own.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/floor_side.h"
#include "bench/hop_sample.h"
#include "bench/host_info.h"
#include "bench/percentile.h"
#include "bench/rehome_side.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {
namespace {

using nlohmann::ordered_json;

// Hops of one guest before the other side's turn; one second each, so that a build that starts
// meanwhile does not fall on one side alone.
constexpr int kBlockHops = 10;
// The first hops of a guest: its memory is bound in another way then (guest_memfd slot), and
// nothing is warm.
constexpr int kWarmUpHops = 1;
// A hop of 8 GiB takes seconds, for its page tables are made and torn down.
constexpr uint64_t kLargeMib = 8192;
constexpr int kLargeRunsDivisor = 5;
// Guest memory that must be available beside the guest's own.
constexpr uint64_t kSpareMib = 2048;
constexpr int kDefaultRuns = 50;

struct Options {
  std::optional<uint32_t> vcpus;
  std::optional<uint64_t> memory_mib;
  int runs = kDefaultRuns;
  bool json = false;
  bool no_trace = false;
};

struct Result {
  GuestShape shape;
  HopSamples floor;
  HopSamples rehome;        // AFTER_RESUME
  HopSamples fenced_first;  // BEFORE_RESUME
  double load = 0;

  double ratio_p50() const { return BlackoutOf(rehome).p50 / BlackoutOf(floor).p50; }
};

[[noreturn]] void Fail(const absl::Status& status) {
  fprintf(stderr, "blackout bench: %s\n", status.ToString().c_str());
  exit(1);
}

void Append(absl::StatusOr<HopSamples> block, HopSamples& samples) {
  if (!block.ok()) Fail(block.status());
  samples.insert(samples.end(), block->begin() + kWarmUpHops, block->end());
}

Result Measure(harness::HostUnderTest& host, const GuestShape& shape, int runs) {
  Result result = {.shape = shape};
  for (int done = 0; done < runs;) {
    const int hops = std::min(kBlockHops, runs - done);
    fprintf(stderr, "\r%u vCPU, %s: %d of %d hops   ", shape.vcpus,
            FormatBytes(static_cast<double>(shape.memory_mib << 20)).c_str(), done, runs);
    Append(RunFloor(shape, hops + kWarmUpHops), result.floor);
    Append(RunRehome(host, shape, hops + kWarmUpHops, v1::Migration::AFTER_RESUME), result.rehome);
    Append(RunRehome(host, shape, hops + kWarmUpHops, v1::Migration::BEFORE_RESUME),
           result.fenced_first);
    done += hops;
  }
  fprintf(stderr, "\r%60s\r", "");
  result.load = LoadAverage();
  return result;
}

void PrintHeader(const Style& style) {
  printf("%s\n\n", MachineLine().c_str());
  printf("%s\n", style
                     .Bold("                       floor            rehome              rehome/ "
                           " fence before")
                     .c_str());
  printf("%s\n", style
                     .Bold("vCPU   memory  runs    p50    p99       p50    p99   max    floor   "
                           "  resume p50")
                     .c_str());
}

void PrintRow(const Style& style, const Result& r) {
  const Summary floor = BlackoutOf(r.floor);
  const Summary rehome = BlackoutOf(r.rehome);
  const std::string ratio = absl::StrFormat("%.2f", r.ratio_p50());
  printf("%4u  %7s  %4u  %5.0f  %5.0f     %5.0f  %5.0f  %5.0f     %s       %5.0f us\n",
         r.shape.vcpus, FormatBytes(static_cast<double>(r.shape.memory_mib << 20)).c_str(),
         static_cast<unsigned>(rehome.count), floor.p50, floor.p99, rehome.p50, rehome.p99,
         rehome.max, style.Bold(ratio).c_str(), BlackoutOf(r.fenced_first).p50);
  fflush(stdout);
}

void PrintPhases(const Style& style, const char* side, const HopSamples& samples) {
  const double full = BlackoutOf(samples).p50;
  printf("\n%s, median of each phase\n", side);
  for (const auto& [name, micros] : PhaseMedians(samples)) {
    if (micros == 0) continue;
    printf("  %-14s %6.0f us  %s\n", name.c_str(), micros, style.Bar(micros, full, 40).c_str());
  }
}

ordered_json ToJson(const Summary& summary) {
  return {{"p50", summary.p50}, {"p99", summary.p99}, {"max", summary.max}};
}

ordered_json ToJson(const std::vector<std::pair<std::string, double>>& phases) {
  ordered_json json = ordered_json::object();
  for (const auto& [name, micros] : phases) json[name] = micros;
  return json;
}

ordered_json ToJson(const Result& r) {
  return {{"vcpus", r.shape.vcpus},
          {"memory_mib", r.shape.memory_mib},
          {"runs", r.rehome.size()},
          {"floor_us", ToJson(BlackoutOf(r.floor))},
          {"rehome_us", ToJson(BlackoutOf(r.rehome))},
          {"ratio_p50", r.ratio_p50()},
          {"load", r.load},
          {"rehome_fence_before_resume_us", ToJson(BlackoutOf(r.fenced_first))},
          {"floor_guest_gap_us", ToJson(GuestGapOf(r.floor))},
          {"rehome_guest_gap_us", ToJson(GuestGapOf(r.rehome))},
          {"floor_phases_p50_us", ToJson(PhaseMedians(r.floor))},
          {"rehome_phases_p50_us", ToJson(PhaseMedians(r.rehome))},
          {"rehome_fence_before_resume_phases_p50_us", ToJson(PhaseMedians(r.fenced_first))}};
}

std::vector<std::pair<GuestShape, int>> Plan(const Options& options) {
  if (options.vcpus || options.memory_mib) {
    return {{{options.vcpus.value_or(1), options.memory_mib.value_or(64)}, options.runs}};
  }
  return {{{1, 64}, options.runs},
          {{2, 64}, options.runs},
          {{4, 64}, options.runs},
          {{1, kLargeMib}, std::max(options.runs / kLargeRunsDivisor, 1)}};
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Blackout of a migration against the floor, side by side");
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, 16));
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--runs", options.runs, "hops of each side, for each row; 8 GiB: a fifth")
      ->check(CLI::Range(1, 100000));
  app.add_flag("--no-trace", options.no_trace, "without the trace of each hop");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  const Style style = Style::ForStdout();
  absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host = harness::HostUnderTest::Start(
      {.kernel = "kvm", .daemon_lines = {options.no_trace ? "trace = false" : "trace = true"}});
  if (!host.ok()) Fail(host.status());
  std::vector<Result> results;
  PrintHeader(style);
  for (const auto& [shape, runs] : Plan(options)) {
    if (AvailableMemoryMib() < shape.memory_mib + kSpareMib) {
      printf("%4u  %4lu MiB  left out: not enough free memory\n", shape.vcpus, shape.memory_mib);
      continue;
    }
    results.push_back(Measure(**host, shape, runs));
    PrintRow(style, results.back());
  }
  if (results.empty()) return 1;
  PrintPhases(style, "floor", results[0].floor);
  PrintPhases(style, "rehome", results[0].rehome);
  printf("\nload average %.2f\n", results.back().load);
  if (options.json) {
    ordered_json json = ToJson(results[0]);
    if (results.size() > 1) {
      json["table"] = ordered_json::array();
      for (const Result& result : results) json["table"].push_back(ToJson(result));
    }
    printf("%s\n", json.dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
