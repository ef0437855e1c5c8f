// SPDX-License-Identifier: Apache-2.0
//
// `./dev chaos`: the kill matrix, as a table for people, for the documentation, and in JSON.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/chaos/matrix.h"
#include "tests/harness/run_guard.h"

namespace rehome::chaos {
namespace {

constexpr int kMaxRounds = 1000;
constexpr int kMaxHosts = 64;
constexpr char kBoth[] = "all";

struct ChaosOptions {
  std::string backend = kBoth;
  int rounds = 1;
  int hosts = kHostsAtOnce;
  std::string only;  // cells whose name contains it
  bool json = false;
  bool markdown = false;
  bool verbose = false;
  bool tested = false;  // only what ./dev test runs
  bool list = false;
};

// Those of a kernel, a blow, and what it falls into.
struct Matrix {
  std::string name;
  std::vector<Cell> cells;
};

// Without those that have no cell.
std::vector<Matrix> Select(const ChaosOptions& options) {
  std::vector<Matrix> matrices;
  const auto add = [&matrices](const Cell& cell) {
    const std::string name = MatrixOf(cell);
    const auto found = std::find_if(matrices.begin(), matrices.end(),
                                    [&](const Matrix& matrix) { return matrix.name == name; });
    if (found == matrices.end()) {
      matrices.push_back({name, {cell}});
    } else {
      found->cells.push_back(cell);
    }
  };
  for (const char* backend : {"kvm", "sim"}) {
    if (options.backend != kBoth && options.backend != backend) continue;
    for (const Blow blow : {Blow::kKill, Blow::kStop}) {
      for (const Variant& variant : Variants(backend)) {
        for (const Cell& cell : AllCells(variant, blow)) {
          if (options.tested && !IsTested(cell)) continue;
          if (cell.Name().find(options.only) != std::string::npos) add(cell);
        }
      }
    }
  }
  return matrices;
}

std::string Json(const ChaosOptions& options, const Summary& summary, double seconds) {
  double load[1] = {0};
  getloadavg(load, 1);
  return nlohmann::ordered_json{{"backend", options.backend},
                                {"cells", summary.cells},
                                {"held", summary.held},
                                {"broken", summary.broken},
                                {"lost_honestly", summary.lost_honestly},
                                {"leftovers", summary.leftovers},
                                {"repeated", summary.repeated},
                                {"orphaned", summary.orphaned},
                                {"orphaned_deadline_ms", kBlackoutDeadline.count()},
                                {"orphaned_standstill_p50_ms", summary.orphaned_p50_ms},
                                {"orphaned_standstill_max_ms", summary.orphaned_max_ms},
                                {"orphaned_longest", summary.orphaned_longest},
                                {"orphaned_late_ms", summary.orphaned_late_ms},
                                {"seconds", seconds},
                                {"load", load[0]}}
      .dump();
}

void PrintSummary(const Summary& summary, double seconds, std::FILE* out) {
  std::fprintf(
      out,
      "%d cells: %d held, %d lost honestly, %d broken, %d leftovers, in %.0f s; %d migrations "
      "ended before their phase and were repeated\n",
      summary.cells, summary.held, summary.lost_honestly, summary.broken, summary.leftovers,
      seconds, summary.repeated);
  if (summary.orphaned == 0) return;
  std::fprintf(
      out,
      "daemon killed in mid-handover, %zu times: the guest stood still for %lld ms (p50), at most "
      "%lld ms (%s), with a deadline of %lld ms; without the time that it was held for, at most "
      "%lld "
      "ms late\n",
      summary.orphaned, static_cast<long long>(summary.orphaned_p50_ms),
      static_cast<long long>(summary.orphaned_max_ms), summary.orphaned_longest.c_str(),
      static_cast<long long>(kBlackoutDeadline.count()),
      static_cast<long long>(summary.orphaned_late_ms));
}

// `done` cells have been run before.
RanMatrix RunMatrix(const Matrix& matrix, const ChaosOptions& options, std::FILE* progress,
                    size_t done) {
  const auto start = std::chrono::steady_clock::now();
  RanMatrix ran = {.name = matrix.name};
  for (int round = 0; round < options.rounds; ++round) {
    const std::vector<RanCell> cells =
        RunCells(matrix.cells, options.hosts, [&](const RanCell& cell) {
          const bool bad =
              cell.result.outcome == Outcome::kBroken || !cell.result.leftovers.empty();
          ++done;
          std::fprintf(progress, "%4zu  %-84s %5.1f s  %s\n", done, cell.cell.Name().c_str(),
                       std::chrono::duration<double>(cell.result.took).count(),
                       Describe(cell.result).c_str());
          if (bad && options.verbose) std::fprintf(stderr, "%s\n", cell.result.logs.c_str());
          std::fflush(progress);
        });
    ran.cells.insert(ran.cells.end(), cells.begin(), cells.end());
  }
  ran.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return ran;
}

int List(const std::vector<Matrix>& selected) {
  for (const Matrix& matrix : selected) {
    for (const Cell& cell : matrix.cells) std::printf("%s\n", cell.Name().c_str());
    std::fprintf(stderr, "%s: %zu cells\n", matrix.name.c_str(), matrix.cells.size());
  }
  return 0;
}

int Run(const ChaosOptions& options) {
  if (options.list) return List(Select(options));
  if (options.backend != "sim" && access("/dev/kvm", R_OK | W_OK) != 0) {
    std::fprintf(stderr, "chaos: /dev/kvm cannot be used here; --backend=sim needs none\n");
    return 1;
  }
  const std::vector<Matrix> selected = Select(options);
  if (selected.empty()) {
    std::fprintf(stderr, "chaos: no cell is called that\n");
    return 2;
  }
  const auto guard = harness::RunGuard::Start();
  if (!guard.ok()) {
    std::fprintf(stderr, "chaos: %s\n", guard.status().ToString().c_str());
    return 1;
  }
  // stdout is the document's, or the table's.
  std::FILE* const progress = options.markdown ? stderr : stdout;
  std::vector<RanMatrix> matrices;
  std::vector<RanCell> all;
  double seconds = 0;
  for (const Matrix& matrix : selected) {
    matrices.push_back(RunMatrix(matrix, options, progress, all.size()));
    const std::vector<RanCell>& cells = matrices.back().cells;
    all.insert(all.end(), cells.begin(), cells.end());
    seconds += matrices.back().seconds;
  }
  const Summary summary = Summarize(all);
  if (options.markdown) std::printf("%s\n", ToRunTable(matrices).c_str());
  std::printf("%s", ToMarkdown(all).c_str());
  PrintSummary(summary, seconds, progress);
  if (options.json) {
    std::fprintf(progress, "%s\n", Json(options, summary, seconds).c_str());
  }
  return summary.broken == 0 && summary.leftovers == 0 ? 0 : 1;
}

}  // namespace
}  // namespace rehome::chaos

int main(int argc, char** argv) {
  using namespace rehome::chaos;
  ChaosOptions options;
  CLI::App app(
      "Kills and stops daemon, source and target at every place of a migration, of a rescue and of "
      "a recovery.",
      "chaos");
  app.add_option("--backend", options.backend, "kernel: kvm, sim or all (default)")
      ->check(CLI::IsMember({"kvm", "sim", kBoth}));
  app.add_option("--rounds", options.rounds, "runs of each cell")->check(CLI::Range(1, kMaxRounds));
  app.add_option("--hosts", options.hosts, "cells at once")->check(CLI::Range(1, kMaxHosts));
  app.add_option("--only", options.only, "cells whose name contains this");
  app.add_flag("--tested", options.tested, "only the cells that ./dev test runs");
  app.add_flag("--list", options.list, "name the cells, and run none");
  app.add_flag("--json", options.json, "a last line in JSON");
  app.add_flag("--markdown", options.markdown, "nothing but tables on stdout, for docs/chaos.md");
  app.add_flag("--verbose", options.verbose, "logs of what went wrong");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return Run(options);
}
