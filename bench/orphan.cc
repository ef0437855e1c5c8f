// SPDX-License-Identifier: Apache-2.0
//
// A guest without its daemon: rehomed is killed in the midst of handovers, at the places where the
// guest stands still, and is not started again before the guest runs. How long that took, against
// the two deadlines of the block. The cells are those of the kill matrix (docs/chaos.md), each
// judged as there.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/host_info.h"
#include "bench/orphan_account.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/chaos/cell.h"
#include "tests/chaos/cell_run.h"

namespace rehome::bench {
namespace {

// Where a VMM is held while the daemon dies: the state is announced, claimed, committed. A source
// is not held: one that is held in its pause acts on no deadline.
constexpr const char* kPlaces[] = {"target:ready", "target:claimed", "target:committed"};

struct Options {
  std::string backend = "kvm";
  int runs = 10;
  bool json = false;
};

std::vector<chaos::Cell> Cells(const std::string& backend) {
  std::vector<chaos::Cell> cells;
  for (const chaos::Variant& variant : chaos::Variants(backend)) {
    for (const chaos::Phase& phase : chaos::Phases(variant)) {
      const auto* const end = std::end(kPlaces);
      if (std::find(std::begin(kPlaces), end, phase.Name()) == end) continue;
      cells.push_back({.variant = variant, .phase = phase, .victims = {.daemon = true}});
    }
  }
  return cells;
}

class OrphanBench {
 public:
  explicit OrphanBench(const Options& options) : options_(options) {}

  void Run() {
    const std::vector<chaos::Cell> cells = Cells(options_.backend);
    for (int run = 0; run < options_.runs; ++run) {
      for (const chaos::Cell& cell : cells) RunOnce(cell);
    }
    places_ = Account(samples_, DeadlineMs());
  }

  // Every guest was kept, and ran again in time.
  bool Passed() const { return broken_ == 0 && KeepsPromise(places_); }

  void Print(const Style& style) const {
    printf("%s, load %.1f\n\n", MachineLine().c_str(), LoadAverage());
    printf("  daemon killed in the midst of %zu handovers, deadline %.0f ms\n\n", samples_.size(),
           DeadlineMs());
    printf("  %-32s %5s  %13s  %13s  %13s\n", "held at", "runs", "stood still", "at most", "late");
    for (const OrphanPlace& place : places_) {
      printf("  %-32s %5zu  %10.0f ms  %10.0f ms  %10.0f ms\n", place.place.c_str(), place.count,
             place.p50_ms, place.max_ms, place.max_late_ms);
    }
    printf("\n  %s running again within the deadline plus %.0f ms; %d guests not kept\n",
           (Passed() ? style.Passed() : style.Failed()).c_str(), kMaxLateMs, broken_);
  }

  nlohmann::ordered_json Json() const {
    nlohmann::ordered_json places = nlohmann::ordered_json::array();
    for (const OrphanPlace& place : places_) {
      places.push_back({{"place", place.place},
                        {"runs", place.count},
                        {"standstill_ms", {{"p50", place.p50_ms}, {"max", place.max_ms}}},
                        {"late_ms", {{"p50", place.p50_late_ms}, {"max", place.max_late_ms}}}});
    }
    return {{"backend", options_.backend}, {"deadline_ms", DeadlineMs()},
            {"goal_late_ms", kMaxLateMs},  {"places", places},
            {"broken", broken_},           {"passed", Passed()},
            {"machine", MachineLine()},    {"load", LoadAverage()}};
  }

 private:
  static double DeadlineMs() { return static_cast<double>(chaos::kBlackoutDeadline.count()); }

  void RunOnce(const chaos::Cell& cell) {
    const chaos::CellResult result = chaos::RunCell(cell);
    const bool kept = result.outcome == chaos::Outcome::kHeld && result.leftovers.empty() &&
                      result.orphaned_standstill.has_value();
    if (kept) {
      samples_.push_back({absl::StrCat(cell.variant.name, " ", cell.phase.Name()),
                          static_cast<double>(result.orphaned_standstill->count())});
      return;
    }
    ++broken_;
    fprintf(stderr, "%s: %s; %s\n%s\n", cell.Name().c_str(),
            absl::StrJoin(result.faults, "; ").c_str(),
            absl::StrJoin(result.leftovers, "; ").c_str(), result.logs.c_str());
  }

  const Options& options_;
  std::vector<OrphanSample> samples_;
  std::vector<OrphanPlace> places_;
  int broken_ = 0;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("How long a guest stands still when its daemon is killed in its handover");
  app.add_option("--backend", options.backend, "kernel: kvm (default) or sim")
      ->check(CLI::IsMember({"kvm", "sim"}));
  app.add_option("--runs", options.runs, "of each place")->check(CLI::Range(1, 10'000));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (options.backend == "kvm" && access("/dev/kvm", R_OK | W_OK) != 0) {
    fprintf(stderr, "orphan: /dev/kvm cannot be used here; --backend=sim needs none\n");
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  OrphanBench bench(options);
  bench.Run();
  bench.Print(Style::ForStdout());
  if (options.json) printf("%s\n", bench.Json().dump().c_str());
  return bench.Passed() ? 0 : 1;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
