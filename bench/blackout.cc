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
#include "bench/idle_vms.h"
#include "bench/many_vms.h"
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
constexpr int kMaxRuns = 100'000;
// As in the other benchmarks; each costs two descriptors here and in the daemon.
constexpr int kMaxVms = 1000;

struct Options {
  std::optional<uint32_t> vcpus;
  std::optional<uint64_t> memory_mib;
  int runs = kDefaultRuns;
  // Of the other two sides; as `runs` where nothing is said, 0 leaves them out.
  std::optional<int> floor_runs, fenced_runs;
  int vms = 0;
  bool memfd = false;
  bool json = false;
  bool no_trace = false;
};

struct Result {
  GuestShape shape;
  HopSamples floor;
  HopSamples rehome;        // AFTER_RESUME
  HopSamples fenced_first;  // BEFORE_RESUME
  double load = 0;

  // None without the floor.
  std::optional<double> ratio_p50() const {
    if (floor.empty()) return std::nullopt;
    return BlackoutOf(rehome).p50 / BlackoutOf(floor).p50;
  }
};

// Hops that are measured, of each side.
struct Runs {
  int rehome = 0;
  int floor = 0;
  int fenced_first = 0;
};

[[noreturn]] void Fail(const absl::Status& status) {
  fprintf(stderr, "blackout bench: %s\n", status.ToString().c_str());
  exit(1);
}

// One side's turn, with warm-up, if it has any left to make.
template <typename Hops>
void TakeTurn(int runs, HopSamples& samples, Hops hops) {
  const int left = std::min(kBlockHops, runs - static_cast<int>(samples.size()));
  if (left <= 0) return;
  const absl::StatusOr<HopSamples> block = hops(left + kWarmUpHops);
  if (!block.ok()) Fail(block.status());
  samples.insert(samples.end(), block->begin() + kWarmUpHops, block->end());
}

Result Measure(harness::HostUnderTest& host, const GuestShape& shape, const Runs& runs) {
  Result result = {.shape = shape};
  const int turns = std::max({runs.rehome, runs.floor, runs.fenced_first});
  for (int done = 0; done < turns; done += kBlockHops) {
    fprintf(stderr, "\r%u vCPU, %s: %d of %d hops   ", shape.vcpus,
            FormatBytes(static_cast<double>(shape.memory_mib << 20)).c_str(), done, turns);
    TakeTurn(runs.floor, result.floor, [&](int hops) { return RunFloor(shape, hops); });
    TakeTurn(runs.rehome, result.rehome,
             [&](int hops) { return RunRehome(host, shape, hops, v1::Migration::AFTER_RESUME); });
    TakeTurn(runs.fenced_first, result.fenced_first,
             [&](int hops) { return RunRehome(host, shape, hops, v1::Migration::BEFORE_RESUME); });
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

// A dash for a side that was left out.
std::string Cell(const Summary& summary, double micros) {
  return summary.count == 0 ? "-" : absl::StrFormat("%.0f", micros);
}

void PrintRow(const Style& style, const Result& r) {
  const Summary floor = BlackoutOf(r.floor);
  const Summary rehome = BlackoutOf(r.rehome);
  const Summary fenced = BlackoutOf(r.fenced_first);
  const std::optional<double> ratio = r.ratio_p50();
  printf("%4u  %7s  %4u  %5s  %5s     %5.0f  %5.0f  %5.0f     %s       %5s us\n", r.shape.vcpus,
         FormatBytes(static_cast<double>(r.shape.memory_mib << 20)).c_str(),
         static_cast<unsigned>(rehome.count), Cell(floor, floor.p50).c_str(),
         Cell(floor, floor.p99).c_str(), rehome.p50, rehome.p99, rehome.max,
         style.Bold(ratio ? absl::StrFormat("%.2f", *ratio) : "   -").c_str(),
         Cell(fenced, fenced.p50).c_str());
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

// null for a side that was left out.
ordered_json ToJson(const Summary& summary) {
  if (summary.count == 0) return nullptr;
  return {{"p50", summary.p50}, {"p99", summary.p99}, {"max", summary.max}};
}

ordered_json ToJson(const std::vector<std::pair<std::string, double>>& phases) {
  ordered_json json = ordered_json::object();
  for (const auto& [name, micros] : phases) json[name] = micros;
  return json;
}

ordered_json ToJson(const Result& r) {
  const std::optional<double> ratio = r.ratio_p50();
  return {{"vcpus", r.shape.vcpus},
          {"memory_mib", r.shape.memory_mib},
          {"runs", r.rehome.size()},
          {"floor_us", ToJson(BlackoutOf(r.floor))},
          {"rehome_us", ToJson(BlackoutOf(r.rehome))},
          {"ratio_p50", ratio ? ordered_json(*ratio) : ordered_json(nullptr)},
          {"floor_runs", r.floor.size()},
          {"fenced_runs", r.fenced_first.size()},
          {"load", r.load},
          {"rehome_fence_before_resume_us", ToJson(BlackoutOf(r.fenced_first))},
          {"floor_guest_gap_us", ToJson(GuestGapOf(r.floor))},
          {"rehome_guest_gap_us", ToJson(GuestGapOf(r.rehome))},
          {"floor_phases_p50_us", ToJson(PhaseMedians(r.floor))},
          {"rehome_phases_p50_us", ToJson(PhaseMedians(r.rehome))},
          {"rehome_fence_before_resume_phases_p50_us", ToJson(PhaseMedians(r.fenced_first))}};
}

Runs RunsOf(const Options& options, int divisor = 1) {
  const auto share = [divisor](int runs) { return runs == 0 ? 0 : std::max(runs / divisor, 1); };
  return {.rehome = share(options.runs),
          .floor = share(options.floor_runs.value_or(options.runs)),
          .fenced_first = share(options.fenced_runs.value_or(options.runs))};
}

std::vector<std::pair<GuestShape, Runs>> Plan(const Options& options) {
  const auto shape = [&options](uint32_t vcpus, uint64_t memory_mib) {
    return GuestShape{.vcpus = vcpus, .memory_mib = memory_mib, .memfd = options.memfd};
  };
  if (options.vcpus || options.memory_mib) {
    return {{shape(options.vcpus.value_or(1), options.memory_mib.value_or(64)), RunsOf(options)}};
  }
  return {{shape(1, 64), RunsOf(options)},
          {shape(2, 64), RunsOf(options)},
          {shape(4, 64), RunsOf(options)},
          {shape(1, kLargeMib), RunsOf(options, kLargeRunsDivisor)}};
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Blackout of a migration against the floor, side by side");
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, 16));
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--runs", options.runs, "hops of each side, for each row; 8 GiB: a fifth")
      ->check(CLI::Range(1, kMaxRuns));
  app.add_option("--floor-runs", options.floor_runs, "of the floor; as --runs")
      ->check(CLI::Range(0, kMaxRuns));
  app.add_option("--fenced-runs", options.fenced_runs, "with the fence first; as --runs")
      ->check(CLI::Range(0, kMaxRuns));
  app.add_option("--vms", options.vms, "idle VMs registered with the same daemon")
      ->check(CLI::Range(0, kMaxVms));
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd, on both sides");
  app.add_flag("--no-trace", options.no_trace, "without the trace of each hop");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  const Style style = Style::ForStdout();
  RaiseDescriptorLimit(options.vms);
  absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host = harness::HostUnderTest::Start(
      {.kernel = "kvm", .daemon_lines = {options.no_trace ? "trace = false" : "trace = true"}});
  if (!host.ok()) Fail(host.status());
  IdleVms idle;
  const absl::Status registered = idle.GrowTo((*host)->agent_socket(), options.vms);
  if (!registered.ok()) Fail(registered);
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
  if (!results[0].floor.empty()) PrintPhases(style, "floor", results[0].floor);
  PrintPhases(style, "rehome", results[0].rehome);
  printf("\nload average %.2f\n", results.back().load);
  if (options.json) {
    ordered_json json = ToJson(results[0]);
    json["registered_vms"] = options.vms + 1;
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
